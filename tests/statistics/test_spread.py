"""The spread of past scores, estimated from made scores whose spread is known."""

from __future__ import annotations

import numpy as np
import pytest

from touchline.statistics.bootstrap import Floats
from touchline.statistics.spread import ItemScores, condition_flips, effect_variance, seed_flips, seed_spread

pytestmark = pytest.mark.planning


def made(seeds: int, items: int, *, spread: float, effect: float, rng: np.random.Generator, levels: int = 2) -> Floats:
    """Normal scores [levels, seeds, items] with flips of 0.1, a spread between seeds, and an effect over items."""
    shape = (levels, seeds, items)
    between = rng.normal(0, spread, (levels, seeds, 1))
    over_items = rng.normal(0, effect / np.sqrt(2), (levels, 1, items))
    return np.asarray(0.5 + between + over_items + rng.normal(0, np.sqrt(0.05), shape))


def scores(table: Floats) -> ItemScores:
    return ItemScores(conditions={str(place): matrix for place, matrix in enumerate(table)})


def test_estimates_are_those_that_the_scores_were_made_with() -> None:
    """Over many experiments the mean squares are the variances."""
    rng = np.random.default_rng(3)
    found = [scores(made(4, 200, spread=0.02, effect=0.2, rng=rng)) for _ in range(150)]
    spread, flips, effect = seed_spread(found), seed_flips(found), effect_variance(found)
    assert spread is not None
    assert flips is not None
    assert effect is not None
    assert spread.value == pytest.approx(0.02, rel=0.06)
    assert spread.count == 150 * 2 * 3
    assert flips.value == pytest.approx(0.1, rel=0.02)
    assert effect.value == pytest.approx(0.04, rel=0.05)
    several = condition_flips(found)
    assert several is not None
    assert several.value == pytest.approx(0.1 + 0.04 + 2 * 0.02**2, rel=0.03)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """90%, of three seeds at two levels."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        found = seed_spread([scores(made(3, 100, spread=0.03, effect=0.0, rng=rng))])
        assert found is not None
        held += found.low <= 0.03 <= found.high
    assert 0.84 < held / 300 < 0.96


def test_two_seeds_leave_the_spread_wide_open() -> None:
    """One degree of freedom: the upper end is more than ten times the value."""
    rng = np.random.default_rng(5)
    found = seed_spread([scores(made(2, 100_000, spread=0.02, effect=0.0, rng=rng, levels=1))])
    assert found is not None
    assert found.count == 1
    assert found.high > 10 * found.value > 0


def test_flips_are_no_spread_between_seeds() -> None:
    """Means that move by their flips alone: the spread without them is near zero."""
    rng = np.random.default_rng(6)
    found = seed_spread([scores(made(5, 400, spread=0.0, effect=0.0, rng=rng)) for _ in range(40)])
    assert found is not None
    assert found.value < 0.004
    assert found.low == 0.0


def test_one_seed_has_flips_between_conditions_and_no_spread() -> None:
    one = ItemScores(conditions={"a": np.array([[1.0, 0, 1, 1]]), "b": np.array([[1.0, 1, 0, 1]])})
    assert seed_spread([one]) is None
    assert seed_flips([one]) is None
    assert effect_variance([one]) is None
    found = condition_flips([one])
    assert found is not None
    assert (found.value, found.count) == (0.5, 4)


def test_flips_of_right_and_wrong_are_counted() -> None:
    """Two of eight items differ between the two seeds."""
    two = ItemScores(conditions={"a": np.array([[1.0, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0]])})
    found = seed_flips([two])
    assert found is not None
    assert found.value == pytest.approx(0.25)


def test_no_flip_is_not_proof_that_there_are_none() -> None:
    """The rule of three: of 100 items without a flip, 3% may flip."""
    same = ItemScores(conditions={"a": np.ones((2, 100))})
    found = seed_flips([same])
    assert found is not None
    assert found.value == found.low == 0.0
    assert found.high == pytest.approx(0.03, abs=0.001)


def test_nothing_past_gives_nothing() -> None:
    assert seed_spread([]) is None
    assert seed_flips([]) is None
    assert condition_flips([ItemScores(conditions={"a": np.ones((1, 4))})]) is None
