"""Effects of factors: what is averaged, what is the unit, and what one seed does not tell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from numpy.random import PCG64, Generator
from tests.statistics.made_scores import analysed, scored

from touchline.domain.analysis import Contrast, FactorEffect, ScoredRun, Shown
from touchline.domain.quantity import Missing, Quantity
from touchline.statistics.effects import ONE_SEED

pytestmark = pytest.mark.planning

ITEMS = 200


def answers(share: float, rng: Generator, items: int = ITEMS) -> list[float]:
    """Right with that chance, each by itself."""
    return [float(right) for right in rng.random(items) < share]


def sweep(shares: dict[str, float], seeds: Sequence[int], *, rates: Sequence[str] = ("1e-4",)) -> list[ScoredRun]:
    """Runs of every rank, rate and seed; a rank's chance of a right answer is given, a seed moves it a little."""
    rng = Generator(PCG64(1))
    return [
        scored(f"r{rank}_{rate}_s{seed}", answers(share + 0.01 * rng.normal(), rng), seed=seed, rank=rank, rate=rate)
        for (rank, share), rate, seed in product(shares.items(), rates, seeds)
    ]


def effect_of(runs: Sequence[ScoredRun], levels: Sequence[str] = ("4", "64")) -> FactorEffect:
    (effect,) = analysed(runs, rank=levels).effects
    return effect


def contrast_of(runs: Sequence[ScoredRun], levels: Sequence[str] = ("4", "64")) -> Contrast:
    return effect_of(runs, levels).contrasts[0]


def test_one_seed_describes_checkpoints_and_not_the_setting() -> None:
    found = contrast_of(sweep({"4": 0.3, "64": 0.9}, [1]))
    assert found.value == pytest.approx(0.6, abs=0.1)
    assert found.reason == ONE_SEED == "one seed: describes these checkpoints, not the setting"
    assert found.shown is Shown.NOT_TESTABLE
    assert (found.low, found.high, found.p_value, found.p_adjusted) == (None, None, None, None)
    assert isinstance(found.smallest, Missing)
    assert found.items_low is not None
    assert found.items_high is not None
    assert found.items_low < found.value < found.items_high
    assert any("one seed" in note for note in analysed(sweep({"4": 0.3, "64": 0.9}, [1]), rank=("4", "64")).notes)


def test_seeds_tell_an_effect_that_is_there() -> None:
    found = contrast_of(sweep({"4": 0.3, "64": 0.9}, [1, 2, 3]))
    assert found.shown is Shown.HIGHER
    assert (found.seeds, found.strata, found.reason) == (3, 1, "")
    assert found.low is not None
    assert found.low < 0.6 < (found.high or 0)
    assert found.crossed_low is not None


def test_an_effect_that_is_not_there_is_not_established_and_says_what_could_have_been() -> None:
    found = contrast_of(sweep({"4": 0.6, "64": 0.6}, [1, 2, 3]))
    assert found.shown is Shown.NOT_ESTABLISHED
    assert isinstance(found.smallest, Quantity)
    assert found.reason.startswith("3 seeds that spread like these show a difference of 0.")
    assert found.high is not None
    assert found.low is not None
    assert found.low < 0 < found.high


def test_it_is_welch_s_test_over_seed_means() -> None:
    """By scipy, where items stand for no more than their flips."""
    from scipy.stats import ttest_ind

    rng = Generator(PCG64(3))
    first = [answers(share, rng) for share in (0.5, 0.62, 0.55)]
    second = [answers(share, rng) for share in (0.7, 0.9, 0.82)]
    runs = [scored(f"a{i}", row, seed=i, rank="4") for i, row in enumerate(first)]
    runs += [scored(f"b{i}", row, seed=i, rank="64") for i, row in enumerate(second)]
    found = contrast_of(runs)
    expected = ttest_ind(np.mean(second, axis=1), np.mean(first, axis=1), equal_var=False)
    assert found.p_value is not None
    assert found.p_value >= float(expected.pvalue) - 1e-9
    assert found.p_value == pytest.approx(float(expected.pvalue), rel=0.25)


def test_the_other_factors_are_averaged_over() -> None:
    """A rate that matters a lot does not hide what the rank does."""
    rng = Generator(PCG64(4))
    runs = [
        scored(f"r{rank}_{rate}_s{seed}", answers(base + gain, rng), seed=seed, rank=rank, rate=rate)
        for (rank, gain), (rate, base), seed in product(
            (("4", 0.0), ("64", 0.2)), (("1e-4", 0.2), ("1e-3", 0.7)), (1, 2, 3)
        )
    ]
    rank, rate = analysed(runs, rank=("4", "64"), rate=("1e-4", "1e-3")).effects
    assert rank.contrasts[0].value == pytest.approx(0.2, abs=0.05)
    assert rate.contrasts[0].value == pytest.approx(0.5, abs=0.05)
    assert (rank.contrasts[0].strata, rank.contrasts[0].seeds) == (2, 3)
    assert rank.contrasts[0].p_adjusted is not None
    assert rank.contrasts[0].p_value is not None
    assert rank.contrasts[0].p_adjusted >= rank.contrasts[0].p_value
    assert len(rank.points) == 12
    assert {point.group for point in rank.points} == {"1M, rate 1e-4", "1M, rate 1e-3"}


def test_levels_stand_in_the_design_s_order_and_only_evaluated_ones() -> None:
    found = effect_of(sweep({"64": 0.5, "4": 0.5}, [1, 2]), ("4", "16", "64"))
    assert found.levels == ("4", "64")
    assert [(contrast.level, contrast.reference) for contrast in found.contrasts] == [("64", "4")]


def test_seeds_are_no_factor_and_controls_no_runs_of_one() -> None:
    runs = [*sweep({"4": 0.5, "64": 0.5}, [1, 2]), scored("base", [0.0] * ITEMS, control=True)]
    runs.append(scored("shuffled", [0.0] * ITEMS, in_family=False, rank="4", rate="1e-4"))
    found = analysed(runs, rank=("4", "64"), seeds=("1", "2"))
    assert [effect.factor for effect in found.effects] == ["train.rank"]
    assert len(found.effects[0].points) == 4


def test_what_always_changes_together_is_told() -> None:
    """Two settings that vary as pairs: the effect is of both."""
    rng = Generator(PCG64(5))
    runs = [
        scored(f"r{rank}_s{seed}", answers(share, rng), seed=seed, rank=rank, rate=rate)
        for (rank, rate, share), seed in product((("4", "1e-3", 0.4), ("64", "1e-4", 0.8)), (1, 2, 3))
    ]
    found = analysed(runs, rank=("4", "64"), rate=("1e-3", "1e-4"))
    rank, rate = found.effects
    assert rank.confounded_with == ("train.rate",)
    assert rate.confounded_with == ("train.rank",)
    assert rank.contrasts[0].value == pytest.approx(0.4, abs=0.1)
    assert "train.rate changes with it: the effect is of both" in rank.contrasts[0].reason
    assert any(note.startswith("train.rank: train.rate changes with it") for note in found.notes)


def test_no_two_runs_that_differ_in_it_alone_give_no_number() -> None:
    """Seed 1 has rank 4, seed 2 has rank 64: nothing can be said."""
    rng = Generator(PCG64(6))
    runs = [scored("a", answers(0.5, rng), seed=1, rank="4"), scored("b", answers(0.5, rng), seed=2, rank="64")]
    found = contrast_of(runs)
    assert (found.value, found.strata, found.shown) == (None, 0, Shown.NOT_TESTABLE)
    assert found.reason == "no two runs with a seed in common differ in train.rank alone"


def test_other_items_are_refused() -> None:
    rng = Generator(PCG64(7))
    runs = [
        scored("a", answers(0.5, rng), rank="4"),
        scored("b", answers(0.5, rng), rank="64", data="other texts"),
    ]
    assert contrast_of(runs).reason == "the items differ"
    runs = [scored("a", answers(0.5, rng), rank="4"), scored("b", answers(0.5, rng), rank="64", comparable="sampled")]
    assert contrast_of(runs).reason == "prompt, decoding or another setting of the evaluation differ"


def test_models_may_be_asked_in_their_own_way() -> None:
    """Two base models have two tokenizers, so that their evaluations' settings differ; the items are the same."""
    rng = Generator(PCG64(8))
    runs = [
        scored(f"{model}_s{seed}", answers(share, rng), seed=seed, model=model, models=model, comparable=model)
        for (model, share), seed in product((("1M", 0.3), ("3M", 0.9)), (1, 2, 3))
    ]
    (effect,) = analysed(runs, models=("1M", "3M")).effects
    assert effect.contrasts[0].shown is Shown.HIGHER


def test_half_of_the_runs_missing_leaves_what_can_be_paired() -> None:
    """A seed without its counterpart is left out, and that is told."""
    runs = [run for run in sweep({"4": 0.3, "64": 0.9}, [1, 2, 3]) if run.name != "r64_1e-4_s3"]
    found = analysed(runs, rank=("4", "64"))
    assert found.effects[0].contrasts[0].seeds == 2
    assert any("64 against 4: 1 run left out" in note for note in found.notes)
    only = [run for run in runs if run.name in ("r4_1e-4_s1", "r64_1e-4_s1")]
    assert contrast_of(only).reason == ONE_SEED


def test_a_condition_without_the_seeds_of_the_others_gives_way() -> None:
    """Two conditions have three seeds, the third has one: the two answer, with three seeds."""
    runs = sweep({"4": 0.3, "64": 0.9}, [1, 2, 3], rates=("1e-4", "1e-3", "1e-2"))
    runs = [run for run in runs if not (run.name.count("_1e-2_") and run.seed > 1)]
    found = contrast_of(runs)
    assert (found.seeds, found.strata) == (3, 2)


def test_seeds_that_agree_by_luck_are_not_certainty() -> None:
    """Both seeds of a level score the same to the digit: the items' own uncertainty stays."""
    rng = Generator(PCG64(9))
    rows = [[1.0] * 150 + [0.0] * 50, [1.0] * 152 + [0.0] * 48]
    runs = [
        scored(f"r{rank}_s{seed}", rng.permutation(row), seed=seed, rank=rank)
        for (rank, row), seed in product((("4", rows[0]), ("64", rows[1])), (1, 2))
    ]
    found = contrast_of(runs)
    assert found.shown is Shown.NOT_ESTABLISHED
    assert found.p_value is not None
    assert found.p_value > 0.1


def test_what_helps_some_items_and_harms_others_is_not_shown_by_seeds_alone() -> None:
    """Every seed agrees that level 64 wins on 30 items and loses on 22: another sample of items might turn it."""
    first = [0.0] * 30 + [1.0] * 22 + [1.0] * 148
    second = [1.0] * 30 + [0.0] * 22 + [1.0] * 148
    runs = [
        scored(f"r{rank}_s{seed}", row, seed=seed, rank=rank)
        for (rank, row), seed in product((("4", first), ("64", second)), (1, 2, 3))
    ]
    found = contrast_of(runs)
    assert found.value == pytest.approx(0.04)
    assert found.shown is Shown.NOT_ESTABLISHED


def test_every_item_of_every_seed_turned_is_shown() -> None:
    runs = [
        scored(f"r{rank}_s{seed}", [value] * 50, seed=seed, rank=rank)
        for (rank, value), seed in product((("4", 0.0), ("64", 1.0)), (1, 2, 3))
    ]
    found = contrast_of(runs)
    assert found.shown is Shown.HIGHER
    assert found.low is not None
    assert found.low > 0.5


def test_conditions_with_items_of_their_own_are_averaged_too() -> None:
    """Two datasets with other items: each is paired within itself."""
    rng = Generator(PCG64(10))
    runs = [
        scored(
            f"{data}_r{rank}_s{seed}",
            answers(share, rng, items),
            seed=seed,
            rank=rank,
            dataset=data,
            data=data,
            comparable=data,
        )
        for (data, items), (rank, share), seed in product(
            (("long", 150), ("short", 80)), (("4", 0.3), ("64", 0.8)), (1, 2, 3)
        )
    ]
    found = contrast_of(runs)
    assert (found.strata, found.shown) == (2, Shown.HIGHER)
    assert found.value == pytest.approx(0.5, abs=0.1)
    assert found.crossed_low is None
