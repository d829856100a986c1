"""Evidence of a look: divergence by luck, other items on both sides, scores below 0, and a score that is not there."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from scipy import stats
from tests.report import made_gathered as made
from tests.strategy import made_strategy as ms
from tests.tiers import examples

from touchline.core.errors import InputError
from touchline.data.scores import EvaluationRecord
from touchline.experiment.plan import Plan
from touchline.experiment.runs import Phase
from touchline.results import strategy
from touchline.results.run_result import RunResult
from touchline.run.loaded_plan import LoadedPlan
from touchline.statistics.conclusions import Verdict
from touchline.strategy import group_sequential as gs
from touchline.strategy.decisions import ContrastLook, DecisionKind, SeedPair
from touchline.strategy.evidence import Evidence, look_at, scored_runs, take_look
from touchline.strategy.state import state_of

pytestmark = pytest.mark.planning


def evaluated(rank: str, rights: Sequence[int], items: str = "aaaaaa") -> list[EvaluationRecord | None]:
    names = [ms.name_of(rank, seed, Phase.CONFIRM) for seed in ms.SEEDS]
    found = zip(names, rights, items, strict=False)
    return [made.record(name, "epoch_1", made.rights(right, 200), items=own) for name, right, own in found]


def valued(rank: str, value: float) -> list[EvaluationRecord]:
    """Evaluations by a task whose scores are not shares; half of the items are a little better than the others."""
    return [
        replace(
            record,
            samples=tuple(
                replace(each, value=value - 0.1 * seed + (0.01 if place % 2 else -0.01))
                for place, each in enumerate(record.samples)
            ),
        )
        for seed, record in enumerate(evaluated(rank, [0] * 3))
        if record is not None
    ]


def look(
    monkeypatch: pytest.MonkeyPatch,
    level: Sequence[EvaluationRecord | None],
    against: Sequence[EvaluationRecord | None],
    *,
    missing: Sequence[str] = (),
) -> ContrastLook:
    """Look at rank 64 against rank 4; a run without an evaluation diverged, unless it is `missing`."""
    found = {
        ms.name_of(rank, seed, Phase.CONFIRM): record
        for rank, side in (("64", level), ("4", against))
        for seed, record in zip(ms.SEEDS, side, strict=False)
    }

    def collect(part: Plan, _: Path) -> list[RunResult]:
        records = [found[run.name] for run in part.runs]
        return [
            replace(ms.trained(run, 0), evaluations=() if record is None else (record,))
            for run, record in zip(part.runs, records, strict=True)
        ]

    monkeypatch.setattr(strategy, "collect_results", collect)
    undecided = replace(ms.seen(ms.HIGH, ms.HIGH_SCORES, bound=9.0, futility=None, verdict=Verdict.UNDECIDED))
    before = [ms.look(number + 1, undecided) for number in range(ms.LOOKS.index(len(level)))]
    state = state_of(ms.confirm_plan(ms.HIGH), [ms.decision(DecisionKind.BEGIN), *before])
    planned = cast(LoadedPlan, SimpleNamespace(plan=state.plan, folder=SimpleNamespace(root=Path("ranks"))))
    diverged = {name for name, record in found.items() if record is None and name not in missing}
    scores = strategy._RunFolders(planned).scores(scored_runs(state, diverged))
    (contrast,) = look_at(state, scores).contrasts
    return contrast


def test_three_seeds_that_diverge_are_no_claim_and_six_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a chance of one half three of three diverge in one of eight sweeps, without any difference of levels."""
    level = evaluated("64", (190, 191, 190, 189, 190, 191))
    three = look(monkeypatch, level[:3], [None] * 3)
    assert three.difference == pytest.approx(0.95, abs=0.01)
    assert three.wide_error == pytest.approx(three.difference * (2 * 0.2 * 0.8 / 3) ** 0.5)
    assert three.verdict is Verdict.UNDECIDED
    assert [len(pair.diverged) for pair in three.pairs] == [1, 1, 1]
    assert look(monkeypatch, level, [None] * 6).verdict is Verdict.ESTABLISHED


def test_the_error_is_that_of_the_items_that_both_sides_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides with other items have the errors of both; runs with items of their own vary over seeds as it is."""
    shared = look(monkeypatch, evaluated("64", (150, 152, 151)), evaluated("4", (140, 141, 142)))
    assert 0.01 < shared.wide_error < 0.03
    other = look(monkeypatch, evaluated("64", (150, 151, 150)), evaluated("4", (140, 140, 140), "bbb"))
    items = 0.75 * 0.25 / 199 + 0.7 * 0.3 / 199
    assert other.wide_error == pytest.approx((items + other.error**2) ** 0.5, rel=0.02)
    assert other.verdict is Verdict.UNDECIDED
    own = look(monkeypatch, evaluated("64", (150,) * 3, "abc"), evaluated("4", (140,) * 3, "def"))
    assert own.wide_error is None


def test_a_run_that_diverged_never_scores_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scores below 0 a 0 would be the best one: the lowest of the look counts."""
    found = look(monkeypatch, [None] * 3, valued("4", -2.0))
    assert [pair.level for pair in found.pairs] == pytest.approx([-2.2] * 3)
    assert found.difference < 0
    assert found.verdict is not Verdict.ESTABLISHED


def test_a_run_without_a_score_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent is not zero: only divergence counts as 0."""
    name = ms.name_of("4", ms.SEEDS[2], Phase.CONFIRM)
    against = [*evaluated("4", (140, 141)), None]
    with pytest.raises(InputError, match=f"{name} has no score"):
        look(monkeypatch, evaluated("64", (150,) * 3), against, missing=[name])


def test_few_items_lend_no_precision() -> None:
    """With fewer items than seeds t has the p value of the items' degrees of freedom; with five nothing is shown."""
    looks, rng = (12,), Generator(PCG64(3))
    pairs = tuple(SeedPair(seed=seed, level=0.5 + 0.001 * rng.normal(), against=0.4) for seed in range(12))
    t = {}
    for units in (None, 100, 12, 8, 6, 5, 2):
        few = Evidence(contrast="few", pairs=pairs, wide_error=0.02, units=units)
        sure = Evidence(contrast="sure", pairs=pairs, wide_error=0.035)
        found, other = take_look([few, sure], looks, 0, {}, None)
        assert other.verdict is Verdict.ESTABLISHED
        freedom = min(11, (units or 12) - 1)
        assert stats.t.sf(found.t, 11) == pytest.approx(stats.t.sf(found.difference / 0.02, freedom))
        assert (found.low > 0) == (found.t >= found.bound)
        is_shown = found.t >= found.bound and (units or 12) > 5
        assert (found.verdict is Verdict.ESTABLISHED) == is_shown
        assert (found.corrected is not None) == is_shown
        t[units] = found.t
    assert t[None] == t[100] == t[12] > t[8] > t[6] > t[5] > t[2]


def test_a_claim_is_corrected_by_what_claims_of_its_design_overstate() -> None:
    looks, effect = (3, 4, 6), gs.shown_effect((3, 4, 6))
    x = Generator(PCG64(4)).normal(effect, 1.0, size=(PATHS, 6))
    t = np.array([stats.ttest_1samp(x[:, :seeds], 0.0, axis=1).statistic for seeds in looks])
    above = t >= np.array(gs.efficacy_bounds(looks))[:, None]
    means = np.array([x[:, :seeds].mean(axis=1) for seeds in looks])
    shown = means[above.argmax(axis=0), np.arange(PATHS)][above.any(axis=0)].mean()
    assert shown > 1.05 * effect
    assert gs.corrected_effect(looks, float(shown)) == pytest.approx(effect, rel=0.01)
    assert gs.corrected_effect(looks, 0.3) == 0.0
    assert gs.corrected_effect(looks, 1000.0) == 1000.0


DESIGNS = ((2, 3, 4), (3, 4, 6), (2, 4, 6, 9, 12), (2, 12), (5, 10))
PATHS = 100_000


@st.composite
def some_looks(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(sorted(draw(st.sets(st.integers(2, 14), min_size=1, max_size=5))))


def simulated(
    looks: tuple[int, ...], efficacy: tuple[float, ...], futility: tuple[float, ...], effect: float
) -> tuple[list[float], list[float]]:
    """Return the shares that end at each look, established and given up: means and deviations, no angles."""
    differences = Generator(PCG64(7)).normal(effect, 1.0, size=(PATHS, looks[-1]))
    active = np.ones(PATHS, dtype=bool)
    established, given_up = [], []
    for seeds, upper, lower in zip(looks, efficacy, futility, strict=True):
        t = stats.ttest_1samp(differences[:, :seeds], 0.0, axis=1).statistic
        above, below = active & (t >= upper), active & (t <= lower)
        established.append(float(above.mean()))
        given_up.append(float(below.mean()))
        active &= ~(above | below)
    return established, given_up


def close(share: float, exact: float) -> bool:
    return abs(share - exact) <= 3 * math.sqrt(exact * (1 - exact) / PATHS) + 2e-5


@pytest.mark.parametrize("looks", DESIGNS)
@pytest.mark.parametrize("level", [gs.LEVEL, gs.LEVEL / 8])
def test_each_look_spends_its_share_of_the_level(looks: tuple[int, ...], level: float) -> None:
    bounds = gs.efficacy_bounds(looks, level)
    established, _ = simulated(looks, bounds, (-math.inf,) * len(looks), 0.0)
    shares = [level * gs.spent(seeds / looks[-1]) for seeds in looks]
    for found, earlier, later in zip(established, [0.0, *shares], shares, strict=False):
        assert close(found, later - earlier), (looks, established, shares)
    assert close(sum(established), level)


@pytest.mark.parametrize("looks", DESIGNS)
@pytest.mark.parametrize("times", [0.0, 0.5, 1.0, 2.0])
def test_chances_are_those_of_simulated_paths(looks: tuple[int, ...], times: float) -> None:
    effect = times * gs.shown_effect(looks)
    bounds, low = gs.efficacy_bounds(looks), gs.futility_bounds(looks)
    chances = gs.stopping_chances(looks, effect, bounds, low)
    established, given_up = simulated(looks, bounds, (*low[:-1], -math.inf), effect)
    for found, exact in zip([*established, *given_up], [*chances.established, *chances.given_up], strict=True):
        assert abs(found - exact) <= 3 * math.sqrt(exact * (1 - exact) / PATHS) + 2e-4, (looks, times, found, exact)


@pytest.mark.parametrize("seeds", [2, 3, 6, 12, 40])
def test_a_single_look_is_the_t_test(seeds: int) -> None:
    assert gs.efficacy_bounds((seeds,)) == pytest.approx((stats.t.ppf(0.975, seeds - 1),), rel=1e-9)
    effect = gs.shown_effect((seeds,))
    noncentral = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, effect * math.sqrt(seeds))
    assert noncentral == pytest.approx(0.8, abs=1e-6)
    assert gs.stopping_chances((seeds,), effect, gs.efficacy_bounds((seeds,))).power == pytest.approx(0.8, abs=2e-3)


@settings(max_examples=examples(8), deadline=None)
@given(looks=some_looks(), level=st.floats(0.0005, 0.2), share=st.floats(0.2, 0.95))
def test_a_smaller_level_has_larger_bounds_at_every_look(looks: tuple[int, ...], level: float, share: float) -> None:
    """Check the condition of Holm's rule over looks (Maurer and Bretz 2013)."""
    wide, strict = gs.efficacy_bounds(looks, level), gs.efficacy_bounds(looks, level * share)
    assert all(other > one for one, other in zip(wide, strict, strict=True))


@settings(max_examples=examples(8), deadline=None)
@given(looks=some_looks(), level=st.floats(0.001, 0.1))
def test_no_look_has_more_than_the_level_and_futility_is_below(looks: tuple[int, ...], level: float) -> None:
    bounds = gs.efficacy_bounds(looks, level)
    nominal = [float(stats.t.sf(bound, seeds - 1)) for bound, seeds in zip(bounds, looks, strict=True)]
    assert all(each <= level * 1.001 for each in nominal)
    low = gs.futility_bounds(looks, level=level)
    assert low[-1] == bounds[-1]
    assert all(lower <= upper for lower, upper in zip(low, bounds, strict=True))


@settings(max_examples=examples(8), deadline=None)
@given(looks=some_looks(), effect=st.floats(0.0, 3.0), more=st.floats(0.05, 1.0))
def test_power_grows_with_the_effect_and_futility_is_cheap(looks: tuple[int, ...], effect: float, more: float) -> None:
    bounds, low = gs.efficacy_bounds(looks), gs.futility_bounds(looks)
    small, large = (gs.stopping_chances(looks, each, bounds, low) for each in (effect, effect + more))
    assert small.power < large.power + 1e-3
    assert looks[0] - 1e-6 <= small.seeds <= looks[-1] + 1e-6
    promised = gs.shown_effect(looks)
    with_futility = gs.stopping_chances(looks, promised, bounds, low)
    assert 0.77 <= with_futility.power <= 0.802
    assert sum(with_futility.given_up) <= 0.1 + 2e-3


def test_a_large_promise_gives_up_no_t_that_may_still_establish_a_claim() -> None:
    looks = (3, 4, 6)
    assert gs.futility_bounds(looks, 1000.0) == gs.futility_bounds(looks) == gs.futility_bounds(looks, 3.0)
    assert gs.futility_bounds(looks, 1.0)[0] < gs.futility_bounds(looks)[0]
    large = gs.stopping_chances(looks, 3.0, gs.efficacy_bounds(looks), gs.futility_bounds(looks, 3.0))
    assert large.power > 0.995


@pytest.mark.parametrize("looks", [(), (1, 3), (4, 3), (2, 65)])
def test_looks_that_are_not_looks_are_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"looks at .* seeds, expected increasing from 2 to at most 64"):
        gs.efficacy_bounds(looks)
