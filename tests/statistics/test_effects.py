"""Effects of factors: what is averaged, what is the unit, and what one seed does not tell."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.random import PCG64, Generator
from tests.statistics.made_scores import analysed, scored

from touchline.core.quantity import Missing, Quantity
from touchline.statistics.conclusions import Conclusion, Contrast, FactorEffect, ScoredRun
from touchline.statistics.effects import ONE_SEED
from touchline.statistics.strata import tied_factors

pytestmark = pytest.mark.planning

ITEMS = 200


def answers(share: float, rng: Generator, items: int = ITEMS) -> list[float]:
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
    assert found.shown is Conclusion.NOT_TESTABLE
    assert (found.low, found.high, found.p_value, found.p_adjusted) == (None, None, None, None)
    assert isinstance(found.smallest, Missing)
    assert found.items_high is not None
    assert found.items_low < found.value < found.items_high
    assert any("one seed" in str(note) for note in analysed(sweep({"4": 0.3, "64": 0.9}, [1]), rank=("4", "64")).notes)


def test_seeds_tell_an_effect_that_is_there() -> None:
    found = contrast_of(sweep({"4": 0.3, "64": 0.9}, [1, 2, 3]))
    assert found.shown is Conclusion.HIGHER
    assert (found.seeds, found.strata, found.reason) == (3, 1, "")
    assert found.low < 0.6 < (found.high or 0)


@pytest.mark.parametrize(("clusters", "freedom"), [(3, 2), (5, 4), (6, 5), (8, 6), (100, 6)])
def test_few_clusters_lend_no_precision(clusters: int, freedom: int) -> None:
    """The wider test of seven seeds has the clusters' degrees of freedom; fewer than six clusters show nothing."""
    runs = sweep({"4": 0.3, "64": 0.9}, range(7))
    found = contrast_of([replace(run, clusters=tuple(str(i % clusters) for i in range(ITEMS))) for run in runs])
    assert (found.with_items.units, found.with_items.freedom) == (clusters, freedom)
    assert found.shown is (Conclusion.HIGHER if clusters > 5 else Conclusion.NOT_ESTABLISHED)
    assert ("too few to show a difference" in found.reason) == (clusters < 6)


def test_an_effect_that_is_not_there_is_not_established_and_says_what_could_have_been() -> None:
    found = contrast_of(sweep({"4": 0.6, "64": 0.6}, [1, 2, 3]))
    assert found.shown is Conclusion.NOT_ESTABLISHED
    assert isinstance(found.smallest, Quantity)
    assert found.reason.startswith("3 seeds with this spread detect a difference of 0.")
    assert found.with_items.low < 0 < found.with_items.high
    # These seeds agree more than the flips of so many items let seeds agree: their test alone would have claimed it.
    assert found.p_value < 0.05 < found.with_items.p_value


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
    assert rank.contrasts[0].p_adjusted >= rank.contrasts[0].p_value
    assert len(rank.points) == 12
    assert {point.group for point in rank.points} == {"1M, rate 1e-4", "1M, rate 1e-3"}


def test_levels_seeds_and_controls() -> None:
    found = effect_of(sweep({"64": 0.5, "4": 0.5}, [1, 2]), ("4", "16", "64"))
    assert found.levels == ("4", "64")
    assert [(contrast.level, contrast.reference) for contrast in found.contrasts] == [("64", "4")]
    runs = [*sweep({"4": 0.5, "64": 0.5}, [1, 2]), scored("base", [0.0] * ITEMS, control=True)]
    runs.append(scored("shuffled", [0.0] * ITEMS, in_family=False, rank="4", rate="1e-4"))
    found = analysed(runs, rank=("4", "64"), seeds=("1", "2"))
    assert [effect.factor for effect in found.effects] == ["train.rank"]
    assert len(found.effects[0].points) == 4


def rank_and_rate_together(drawn: int) -> list[ScoredRun]:
    rng = Generator(PCG64(drawn))
    return [
        scored(f"r{rank}_s{seed}", answers(share, rng), seed=seed, rank=rank, rate=rate)
        for (rank, rate, share), seed in product((("4", "1e-3", 0.4), ("64", "1e-4", 0.8)), (1, 2, 3))
    ]


def test_what_always_changes_together_is_told() -> None:
    """Two settings that vary as pairs: the effect is of both."""
    runs = rank_and_rate_together(5)
    found = analysed(runs, rank=("4", "64"), rate=("1e-3", "1e-4"))
    rank, rate = found.effects
    assert rank.confounded_with == ("train.rate",)
    assert rate.confounded_with == ("train.rank",)
    assert rank.contrasts[0].value == pytest.approx(0.4, abs=0.1)
    assert "the rate changes with it, so the effect is of both" in rank.contrasts[0].reason
    assert any(str(note).startswith("the rate changes with the rank") for note in found.notes)


def test_pairs_that_cannot_be() -> None:
    rng = Generator(PCG64(6))
    runs = [scored("a", answers(0.5, rng), seed=1, rank="4"), scored("b", answers(0.5, rng), seed=2, rank="64")]
    found = contrast_of(runs)
    assert (found.value, found.strata, found.shown) == (None, 0, Conclusion.NOT_TESTABLE)
    assert found.reason == "no two runs with the same seed differ only in train.rank"
    rng = Generator(PCG64(7))
    runs = [scored("a", answers(0.5, rng), rank="4"), scored("b", answers(0.5, rng), rank="64", data="different texts")]
    assert contrast_of(runs).reason == "the items differ"
    runs = [scored("a", answers(0.5, rng), rank="4"), scored("b", answers(0.5, rng), rank="64", comparable="sampled")]
    assert contrast_of(runs).reason == "prompt, decoding or another setting of the evaluation differ"
    # Two base models have two tokenizers, so that their evaluations' settings differ; the items are the same.
    rng = Generator(PCG64(8))
    runs = [
        scored(f"{model}_s{seed}", answers(share, rng), seed=seed, model=model, models=model, comparable=model)
        for (model, share), seed in product((("1M", 0.3), ("3M", 0.9)), (1, 2, 3))
    ]
    (effect,) = analysed(runs, models=("1M", "3M")).effects
    assert effect.contrasts[0].shown is Conclusion.HIGHER


def test_pairs_that_are_left() -> None:
    runs = [run for run in sweep({"4": 0.3, "64": 0.9}, [1, 2, 3]) if run.name != "r64_1e-4_s3"]
    found = analysed(runs, rank=("4", "64"))
    assert found.effects[0].contrasts[0].seeds == 2
    assert any("1 run not used for rank 64 against 4" in str(note) for note in found.notes)
    only = [run for run in runs if run.name in ("r4_1e-4_s1", "r64_1e-4_s1")]
    assert contrast_of(only).reason == ONE_SEED
    # Two conditions have three seeds, the third has one: the two answer, with three seeds.
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
    assert found.shown is Conclusion.NOT_ESTABLISHED
    assert (found.p_value, found.p_adjusted, found.low) == (None, None, None)
    assert found.with_items.p_value > 0.1
    assert found.reason.startswith("the seeds' means do not differ, so the t-test over seeds is not defined")


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
    assert found.shown is Conclusion.NOT_ESTABLISHED


def test_every_item_of_every_seed_turned_is_shown() -> None:
    runs = [
        scored(f"r{rank}_s{seed}", [value] * 50, seed=seed, rank=rank)
        for (rank, value), seed in product((("4", 0.0), ("64", 1.0)), (1, 2, 3))
    ]
    found = contrast_of(runs)
    assert found.shown is Conclusion.HIGHER
    assert (found.p_value, found.low) == (None, None)
    assert found.with_items.low > 0.5


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
    assert (found.strata, found.shown) == (2, Conclusion.HIGHER)
    assert found.value == pytest.approx(0.5, abs=0.1)


def seeded(second: dict[int, Sequence[float]], first: dict[int, Sequence[float]], **other: str) -> list[ScoredRun]:
    return [
        scored(f"r{rank}_{other}_s{seed}", row, seed=seed, rank=rank, **other)
        for rank, side in (("64", second), ("4", first))
        for seed, row in side.items()
    ]


def scales(rng: Generator, shape: tuple[int, int]) -> list[np.ndarray]:
    """Scores of many kinds: right or wrong, means of repeats, ROUGE, losses, percentages, tiny and huge numbers."""
    return [
        (rng.random(shape) < 0.7).astype(float),
        rng.binomial(4, 0.9, size=shape) / 4,
        rng.beta(2, 5, size=shape),
        rng.gamma(2, 1, size=shape) + 5,
        100 * rng.random(shape),
        1e-7 * rng.normal(size=shape),
        1e12 * rng.normal(size=shape),
    ]


def test_every_number_of_a_test_is_scipy_s() -> None:
    """Paired where seeds are shared, Welch's where none is: p, interval, statistic and degrees of freedom."""
    from scipy.stats import ttest_ind, ttest_rel

    rng = Generator(PCG64(11))
    cases = [([1, 2], [1, 2]), ([1, 2, 3], [1, 2, 3]), ([5, 7, 11, 13, 17], [5, 7, 11, 13, 17])]
    cases += [([1, 2], [3, 4]), ([1, 2, 3], [4, 5]), ([1, 2], [3, 4, 5, 6, 7])]
    for own, other in cases:
        for second, first in zip(scales(rng, (len(own), 60)), scales(rng, (len(other), 60)), strict=True):
            runs = seeded(dict(zip(own, second, strict=True)), dict(zip(other, first, strict=True)))
            rng.shuffle(runs)
            found = contrast_of(runs)
            is_paired = own == other
            expected = (
                ttest_rel(second.mean(axis=1), first.mean(axis=1))
                if is_paired
                else ttest_ind(second.mean(axis=1), first.mean(axis=1), equal_var=False)
            )
            ends = expected.confidence_interval(0.95)
            assert found.test.kind.value == ("paired t-test" if is_paired else "Welch's t-test")
            assert (found.test.seeds, found.test.reference_seeds) == (tuple(own), tuple(other))
            assert found.test.means == pytest.approx(second.mean(axis=1), rel=1e-12)
            told = (found.p_value, found.low, found.high, found.test.statistic, found.test.freedom)
            assert told == pytest.approx((expected.pvalue, *ends, expected.statistic, expected.df), rel=1e-7)
            assert found.p_adjusted == found.p_value
            wide = found.with_items
            assert wide.p_value >= float(expected.pvalue) * (1 - 1e-9)
            assert wide.low <= found.low + 1e-9 * abs(found.low)
            assert wide.high >= found.high - 1e-9 * abs(found.high)


def test_two_seeds_that_agree_make_no_claim() -> None:
    """13.1 points between two seeds each: the plain tests give 0.0097 (Welch) and 0.067 (paired); it said < 0.001."""
    rows = {1: 0.742, 2: 0.7695}, {1: 0.6255, 2: 0.6240}
    second, first = ({s: [1.0] * round(2000 * m) + [0.0] * round(2000 * (1 - m)) for s, m in e.items()} for e in rows)
    found = contrast_of(seeded(second, first))
    assert 0.05 < found.p_value < 0.08
    assert found.shown is Conclusion.NOT_ESTABLISHED


def test_no_claim_rests_on_seeds_that_do_not_differ() -> None:
    """Equal means at one level, at both, differences that are all alike: where scipy says 0 or nan, items answer."""
    half, more = [1.0, 0.0] * 50, [1.0, 0.0] * 48 + [1.0] * 4
    swapped, other = half[::-1], [*half[:-2], 1.0, 1.0]
    for second, first, is_defined in (
        ({1: more, 2: more}, {1: half, 2: half}, False),
        ({1: more, 2: more}, {1: half, 2: swapped}, False),
        ({1: half, 2: half}, {1: half, 2: half}, False),
        ({1: other, 2: more}, {1: half, 2: other}, False),
        ({1: more, 2: half, 3: half}, {1: half, 2: half, 3: half}, True),
        ({1: more, 2: more}, {3: half, 4: half}, False),
        ({1: more, 2: half}, {3: half, 4: half}, True),
    ):
        found = contrast_of(seeded(second, first))
        assert (found.p_value is not None) is is_defined
        assert (found.test.statistic is None) is not is_defined
        assert found.shown is Conclusion.NOT_ESTABLISHED
        assert 0 < found.with_items.p_value <= 1


def test_a_level_with_one_seed_is_described_and_not_tested() -> None:
    rng = Generator(PCG64(12))
    for own, other in (([1], [2, 3]), ([1, 2, 3], [4]), ([1, 2], [2, 3])):
        found = contrast_of(seeded({s: answers(0.5, rng) for s in own}, {seed: answers(0.5, rng) for seed in other}))
        assert (found.reason, found.shown, found.test) == (ONE_SEED, Conclusion.NOT_TESTABLE, None)
        assert found.value is not None


def test_conditions_are_averaged_before_the_test_and_holm_is_over_all_contrasts() -> None:
    """Two factors of three and two levels: the means that scipy gets are those over the other factor's conditions."""
    from scipy.stats import ttest_rel

    rng = Generator(PCG64(13))
    scores = {
        (rank, rate, seed): rng.beta(3, 2, size=80) + 0.2 * (rank == "64") + 0.05 * seed
        for rank, rate, seed in product(("4", "16", "64"), ("1e-4", "1e-3"), (1, 2, 3))
    }
    runs = [
        scored(f"r{rank}_{rate}_s{seed}", row, seed=seed, rank=rank, rate=rate)
        for (rank, rate, seed), row in scores.items()
    ]
    analysis = analysed(runs, rank=("4", "16", "64"), rate=("1e-4", "1e-3"))

    def means(rank: str | None, rate: str | None) -> list[float]:
        return [
            float(
                np.mean(
                    [
                        row.mean()
                        for (a, b, s), row in scores.items()
                        if s == seed and rank in (a, None) and rate in (b, None)
                    ]
                )
            )
            for seed in (1, 2, 3)
        ]

    expected = [
        ttest_rel(means("16", None), means("4", None)).pvalue,
        ttest_rel(means("64", None), means("4", None)).pvalue,
        ttest_rel(means(None, "1e-3"), means(None, "1e-4")).pvalue,
    ]
    found = [contrast for effect in analysis.effects for contrast in effect.contrasts]
    assert [each.p_value for each in found] == pytest.approx(expected)
    assert analysis.effects_family == 3
    ordered = sorted(expected)
    holm = {p: min(1.0, max((3 - i) * q for i, q in enumerate(ordered[: k + 1]))) for k, p in enumerate(ordered)}
    assert [each.p_adjusted for each in found] == pytest.approx([holm[p] for p in expected])


def test_an_effect_that_differs_between_levels_of_another_factor_is_an_interaction() -> None:
    """Rank 64 helps one model and harms the other: nothing on average, and a difference of the effects over seeds."""
    from scipy.stats import ttest_rel

    rng = Generator(PCG64(14))
    shares = {("1M", "4"): 0.5, ("1M", "64"): 0.8, ("3M", "4"): 0.8, ("3M", "64"): 0.5}
    scores = {
        (model, rank, seed): answers(share + 0.01 * rng.normal(), rng, 2000)
        for (model, rank), share in shares.items()
        for seed in (1, 2, 3)
    }
    runs = [
        scored(f"{model}_r{rank}_s{seed}", row, seed=seed, model=model, models=model, rank=rank, comparable=model)
        for (model, rank, seed), row in scores.items()
    ]
    analysis = analysed(runs, models=("1M", "3M"), rank=("4", "64"))
    (found,) = analysis.interactions
    gains = {m: [np.mean(scores[m, "64", s]) - np.mean(scores[m, "4", s]) for s in (1, 2, 3)] for m in ("1M", "3M")}
    expected = ttest_rel(gains["3M"], gains["1M"])
    assert (found.factor, found.other_factor, found.other_level) == ("train.rank", "models", "3M")
    assert (found.effect, found.other_effect) == pytest.approx((np.mean(gains["3M"]), np.mean(gains["1M"])))
    assert found.difference.p_value == pytest.approx(expected.pvalue)
    assert found.difference.shown is Conclusion.LOWER
    assert analysis.interactions_family == 1
    assert all(each.shown is Conclusion.NOT_ESTABLISHED for effect in analysis.effects for each in effect.contrasts)
    same = [run for run in runs if not (run.model == "3M" and run.seed == 3)]
    assert analysed(same, models=("1M", "3M"), rank=("4", "64")).interactions[0].difference.seeds == 2
    assert (
        analysed(
            [run for run in runs if run.name != "x" and not (run.model == "3M" and "r64" in run.name)],
            models=("1M", "3M"),
            rank=("4", "64"),
        ).interactions
        == ()
    )


def test_settings_that_are_tied_by_design_are_one_effect() -> None:
    """Groups change one for one in every planned run; a cross or a half-done one ties nothing."""
    pair = [{"rank": "4", "alpha": "8", "rate": "a"}, {"rank": "64", "alpha": "128", "rate": "a"}]
    assert tied_factors(pair, ["rank", "alpha", "rate"]) == (("rank", "alpha"),)
    assert tied_factors([*pair, {"rank": "4", "alpha": "16", "rate": "a"}], ["rank", "alpha"]) == ()
    models = [{"models": "1M", "rate": "x"}, {"models": "3M", "rate": "y"}, {"models": "1M", "rate": "x"}]
    assert tied_factors(models, ["rate", "models"]) == (("models", "rate"),)
    assert tied_factors([{"rank": "4"}, {"rank": "64", "rate": "x"}], ["rank", "rate"]) == ()
    runs = rank_and_rate_together(15)
    found = analysed(runs, tied=[("train.rank", "train.rate")], rank=("4", "64"), rate=("1e-3", "1e-4"))
    (effect,) = found.effects
    assert (effect.tied, effect.tied_levels) == (("train.rate",), {"train.rate": ("1e-3", "1e-4")})
    assert (effect.confounded_with, found.effects_family) == ((), 1)
    assert effect.contrasts[0].shown is Conclusion.HIGHER
