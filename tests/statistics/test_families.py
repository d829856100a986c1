"""Several analyses in one family, with made-up scores: what is adjusted over what."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from tests.statistics.made_scores import scored

from touchline.statistics.analysis import analyse_together
from touchline.statistics.comparisons import TaskScores
from touchline.statistics.conclusions import Analysis, ScoredRun
from touchline.statistics.paired import holm

pytestmark = pytest.mark.planning

FACTORS = {"train.rank": ("4", "8", "16"), "train.epochs": ("1", "2")}
SEEDS = (1, 2, 3)


@st.composite
def a_set(draw: st.DrawFn, *, shares: bool) -> list[ScoredRun]:
    """A control and a run of each rank, number of epochs and seed, on items of its own."""
    items = draw(st.integers(2, 6))
    one = st.sampled_from([0.0, 1.0] if not shares else [0.0, 0.25, 1.0])
    answers = st.lists(one, min_size=items, max_size=items)
    runs = [scored("base", draw(answers), control=True)]
    runs += [
        scored(f"r{rank}_e{epochs}_s{seed}", draw(answers), seed=seed, rank=rank, epochs=epochs)
        for rank in FACTORS["train.rank"]
        for epochs in FACTORS["train.epochs"]
        for seed in SEEDS
    ]
    return runs


def together(*groups: Sequence[ScoredRun]) -> tuple[Analysis, ...]:
    """The groups as one family."""
    members = [
        TaskScores(task=f"task {number}", score="exact match", runs=runs, rng=Generator(PCG64(7)))
        for number, runs in enumerate(groups)
    ]
    return analyse_together(members, FACTORS)


SETS = st.booleans().flatmap(lambda shares: st.lists(a_set(shares=shares), min_size=1, max_size=3))


@settings(max_examples=15, deadline=None)
@given(SETS)
def test_each_kind_of_p_value_is_adjusted_once_over_all_sets(groups: list[list[ScoredRun]]) -> None:
    found = together(*groups)
    sets = len(groups)
    assert {each.family for each in found} == {18 * sets}
    assert {each.effects_family for each in found} == {3 * sets}
    assert {each.interactions_family for each in found} == {2 * sets}
    compared = [each.difference for analysis in found for each in analysis.comparisons]
    assert [each.p_adjusted for each in compared] == pytest.approx(holm([each.p_value for each in compared]))
    contrasts = [contrast for analysis in found for effect in analysis.effects for contrast in effect.contrasts]
    raw = [1.0 if each.p_value is None else each.p_value for each in contrasts]
    expected = [None if each.p_value is None else p for each, p in zip(contrasts, holm(raw), strict=True)]
    assert [each.p_adjusted for each in contrasts] == pytest.approx(expected)
    wide = [each.with_items for each in contrasts if each.with_items is not None]
    assert [each.p_adjusted for each in wide] == pytest.approx(holm([min(each.p_value, 1.0) for each in wide]))
    interactions = [each.difference.with_items for analysis in found for each in analysis.interactions]
    known = [each for each in interactions if each is not None]
    assert len(known) == 2 * sets
    assert [each.p_adjusted for each in known] == pytest.approx(holm([min(each.p_value, 1.0) for each in known]))


@settings(max_examples=15, deadline=None)
@given(SETS)
def test_a_family_changes_what_is_adjusted_and_nothing_else(groups: list[list[ScoredRun]]) -> None:
    """Scores, differences, intervals and raw p values are those of each set alone; adjusted ones are never smaller."""
    for member, runs in zip(together(*groups), groups, strict=True):
        (alone,) = together(runs)
        assert member.scores == alone.scores
        for one, other in zip(member.comparisons, alone.comparisons, strict=True):
            assert (one.difference.low, one.difference.high) == (other.difference.low, other.difference.high)
            assert one.difference.p_value == other.difference.p_value
            assert one.difference.p_adjusted >= other.difference.p_adjusted
        for effect, own in zip(member.effects, alone.effects, strict=True):
            assert effect.points == own.points
            for contrast, single in zip(effect.contrasts, own.contrasts, strict=True):
                assert (contrast.value, contrast.low, contrast.high) == (single.value, single.low, single.high)
                assert contrast.test == single.test
                assert (contrast.p_adjusted or 0.0) >= (single.p_adjusted or 0.0)


def test_a_family_of_nothing_is_nothing() -> None:
    assert together() == ()
