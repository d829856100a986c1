"""Looks at contrasts: verdicts of a look, Holm over looks, edge cases, and the choice of the looks."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from scipy import stats
from tests.tiers import examples

from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import ContrastLook, SeedPair
from touchline.strategy.evidence import Evidence, take_look
from touchline.strategy.group_sequential import LEVEL, efficacy_bounds, futility_bounds, shown_effect
from touchline.strategy.look_designs import candidate_looks, choose_looks, seeds_of_one_test

pytestmark = pytest.mark.planning

LOOKS = (3, 4, 6)


def pairs_of(differences: Sequence[float]) -> tuple[SeedPair, ...]:
    return tuple(SeedPair(seed=seed, level=each, against=0.0) for seed, each in enumerate(differences))


def evidence(name: str, *differences: float, wide: float | None = None) -> Evidence:
    return Evidence(contrast=name, pairs=pairs_of(differences), wide_error=wide)


def look(
    *given: Evidence, number: int = 0, decided: Mapping[str, Verdict] | None = None, detect: float | None = 2.0
) -> dict[str, ContrastLook]:
    return {each.contrast: each for each in take_look(given, LOOKS, number, decided or {}, detect)}


def test_numbers_are_those_of_scipy() -> None:
    result = look(evidence("rank", 1.0, 2.5, 0.5, 1.5), number=1)["rank"]
    test = stats.ttest_1samp([1.0, 2.5, 0.5, 1.5], 0.0, alternative="greater")
    assert (result.t, result.p_value) == pytest.approx((test.statistic, test.pvalue))
    assert result.difference == pytest.approx(1.375)
    assert result.error == pytest.approx(stats.sem([1.0, 2.5, 0.5, 1.5]))
    assert result.bound == efficacy_bounds(LOOKS, LEVEL)[1]
    assert result.futility == futility_bounds(LOOKS)[1]
    assert result.low == pytest.approx(result.difference - result.bound * result.error)
    assert result.high == pytest.approx(result.difference + result.bound * result.error)
    assert (len(result.pairs), result.level, result.verdict) == (4, LEVEL, Verdict.UNDECIDED)


def test_the_four_verdicts() -> None:
    results = look(
        evidence("large", 5.0, 5.2, 5.1), evidence("middle", 1.0, 2.0, 3.0), evidence("none", -1.0, 0.5, 0.1)
    )
    assert [each.verdict for each in results.values()] == [Verdict.ESTABLISHED, Verdict.UNDECIDED, Verdict.OUT_OF_REACH]
    last = look(evidence("middle", 1.0, 2.0, 3.0, -2.0, 0.0, 1.0), number=2, decided={"large": Verdict.ESTABLISHED})
    assert last["middle"].verdict is Verdict.NOT_ESTABLISHED
    assert last["middle"].futility is None


def test_variation_between_items_only_removes_claims() -> None:
    differences = (5.0, 5.2, 5.1)
    narrow, same, wide = (look(evidence("a", *differences, wide=error))["a"] for error in (None, 0.01, 1.0))
    assert narrow.verdict is same.verdict is Verdict.ESTABLISHED
    assert narrow.t == same.t
    assert wide.verdict is Verdict.UNDECIDED
    assert wide.t == pytest.approx(5.1)
    assert wide.error == narrow.error
    assert wide.low is not None
    assert wide.low < 0


def test_seeds_that_do_not_differ_leave_the_test_to_the_items() -> None:
    alone = look(evidence("a", 0.1, 0.1 + 1e-17, 0.1))["a"]
    assert (alone.t, alone.p_value, alone.low, alone.high) == (None, None, None, None)
    assert (alone.error, alone.verdict) == (0.0, Verdict.UNDECIDED)
    assert look(evidence("a", 0.1, 0.1, 0.1, wide=0.005))["a"].verdict is Verdict.ESTABLISHED
    assert look(evidence("a", 0.1, 0.1, 0.1, wide=0.05))["a"].verdict is Verdict.UNDECIDED
    zero = look(evidence("a", *[0.0] * 6), number=2)["a"]
    assert (zero.t, zero.verdict) == (None, Verdict.NOT_ESTABLISHED)


def test_holm_hands_the_level_of_established_contrasts_to_the_rest() -> None:
    bounds = [efficacy_bounds(LOOKS, LEVEL / share)[0] for share in (1, 2, 3)]
    # t of (m - s, m, m + s) is m * sqrt(3) / s: between the bounds at a third and at a half of the level.
    between = (bounds[1] + bounds[2]) / 2 / math.sqrt(3)
    second = evidence("second", between - 1, between, between + 1)
    alone = look(second, evidence("x", 0.0, 2.0, 4.0), evidence("y", 0.0, 2.0, 4.5))
    assert alone["second"].verdict is Verdict.UNDECIDED
    assert alone["second"].level == pytest.approx(LEVEL / 3)
    first = evidence("first", 99.0, 99.01, 99.02)
    helped = look(second, first, evidence("y", 0.0, 2.0, 4.5))
    assert helped["first"].level == pytest.approx(LEVEL / 3)
    assert helped["second"].level == pytest.approx(LEVEL / 2)
    assert helped["second"].verdict is Verdict.ESTABLISHED
    assert helped["y"].level == pytest.approx(LEVEL)
    later = {"first": Verdict.ESTABLISHED, "z": Verdict.OUT_OF_REACH}
    assert look(second, decided=later)["second"].level == pytest.approx(LEVEL / 2), "what is given up keeps its share"


def test_the_order_given_has_no_part_in_it() -> None:
    all_of_them = [evidence("a", 5.0, 5.2, 5.1), evidence("b", 1.0, 2.0, 3.0), evidence("c", 9.0, 9.2, 9.3)]
    assert look(*all_of_them) == look(*all_of_them[::-1])
    assert take_look([], LOOKS, 0, {}, None) == ()


def test_differences_that_are_not_one_number_per_seed_are_refused() -> None:
    for differences in ((1.0, 2.0), (1.0, 2.0, math.nan), (1.0, 2.0, math.inf)):
        with pytest.raises(ValueError, match="contrast a needs 3 finite differences"):
            look(evidence("a", *differences))


@settings(max_examples=examples(25), deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(-100, 100, allow_nan=False), min_size=4, max_size=4), min_size=1, max_size=4),
    shift=st.floats(0.01, 50),
    scale=st.floats(0.1, 10),
)
def test_more_difference_never_loses_a_claim_in_any_unit(rows: list[list[float]], shift: float, scale: float) -> None:
    before = [evidence(str(at), *row) for at, row in enumerate(rows)]
    shifted = [evidence(str(at), *(value + shift for value in row)) for at, row in enumerate(rows)]
    scaled = [evidence(str(at), *(value * scale for value in row)) for at, row in enumerate(rows)]
    first, more, other = (look(*each, number=1) for each in (before, shifted, scaled))
    for name, result in first.items():
        if result.error > 1e-6:
            claimed = result.verdict is Verdict.ESTABLISHED
            assert (result.low is not None and result.low >= -1e-9) == claimed or abs(result.low or 1.0) < 1e-9
            assert not claimed or more[name].verdict is Verdict.ESTABLISHED or more[name].error <= 1e-9
            assert other[name].t == pytest.approx(result.t, rel=1e-6)


def test_families_without_a_difference_are_rarely_claimed_in_three_looks() -> None:
    """Three contrasts that share a reference, through `take_look` itself."""
    rng, count, claims = Generator(PCG64(5)), 3000, 0
    for _ in range(count):
        scores = rng.normal(size=(4, LOOKS[-1]))
        decided: dict[str, Verdict] = {}
        for number, seeds in enumerate(LOOKS):
            active = [at for at in (1, 2, 3) if str(at) not in decided]
            given_now = [evidence(str(at), *(scores[at, :seeds] - scores[0, :seeds])) for at in active]
            results = take_look(given_now, LOOKS, number, decided, 2.0)
            decided |= {each.contrast: each.verdict for each in results if each.verdict is not Verdict.UNDECIDED}
        claims += Verdict.ESTABLISHED in decided.values()
    assert claims / count <= LEVEL + 3 * math.sqrt(LEVEL / count)


@pytest.mark.slow
def test_chosen_looks_show_the_promise_and_save_seeds() -> None:
    for seeds in (6, 8, 10, 12):
        chosen = choose_looks(shown_effect((seeds,)))
        assert chosen.fixed_seeds == seeds
        assert chosen.has_power, chosen
        assert chosen.excess <= 1 + 1e-9, chosen
        assert chosen.seeds_without <= 0.6 * seeds
        assert chosen.seeds_twice <= 0.75 * seeds


@pytest.mark.slow
def test_chosen_looks_do_what_they_say() -> None:
    chosen = choose_looks(1.3)
    efficacy, futility = efficacy_bounds(chosen.looks), futility_bounds(chosen.looks, chosen.effect)
    differences = Generator(PCG64(3)).normal(chosen.effect, 1.0, size=(50_000, chosen.looks[-1]))
    active, shown, seeds = np.ones(50_000, dtype=bool), 0, 0
    for number, upper, lower in zip(chosen.looks, efficacy, (*futility[:-1], math.inf), strict=True):
        t = stats.ttest_1samp(differences[:, :number], 0.0, axis=1).statistic
        ended = active & ((t >= upper) | (t <= lower))
        shown, seeds = shown + int((active & (t >= upper)).sum()), seeds + number * int(ended.sum())
        active &= ~ended
    assert shown / 50_000 == pytest.approx(chosen.power, abs=0.006)
    assert seeds / 50_000 == pytest.approx(chosen.seeds_promised, abs=0.05)


@pytest.mark.slow
def test_looks_for_a_number_of_seeds() -> None:
    chosen = choose_looks(seeds=6)
    assert chosen.looks[-1] == 6
    assert chosen.has_power
    assert choose_looks(0.3, seeds=4).power < 0.8, "too few seeds: the best power there is"
    assert choose_looks(seeds=2).looks == (2,)
    family = choose_looks(1.5, contrasts=4)
    assert family.fixed_seeds > choose_looks(1.5).fixed_seeds
    assert seeds_of_one_test(1.5, level=LEVEL / 4) == family.fixed_seeds


@given(st.integers(2, 64))
def test_candidates_end_at_the_last_look(last: int) -> None:
    candidates = candidate_looks(last)
    assert candidates
    assert len(set(candidates)) == len(candidates) <= 36
    for looks in candidates:
        assert looks[-1] == last
        assert looks[0] >= 2
        assert list(looks) == sorted(set(looks))
        assert len(looks) <= 5


def test_choices_that_cannot_be_made_are_refused() -> None:
    for effect, message in ((0.0, "above 0"), (math.nan, "above 0"), (0.1, "needs more than 64 seeds")):
        with pytest.raises(ValueError, match=message):
            choose_looks(effect)
    with pytest.raises(ValueError, match="looks at"):
        choose_looks(1.0, seeds=1)
