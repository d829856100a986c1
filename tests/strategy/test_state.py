"""State of a strategy from its decisions alone: runs that are started, needed and left; the design and its digest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from scipy import stats
from tests.run.made_plans import made_control, made_plan, made_run
from tests.tiers import examples

from touchline.core.errors import InputError
from touchline.core.levels import Level
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy, StatedContrast
from touchline.plan.identity import describe_change
from touchline.statistics.conclusions import Verdict
from touchline.strategy import decisions as dec
from touchline.strategy import strategy_of
from touchline.strategy.costs import look_bounds, promised_power, strategy_costs
from touchline.strategy.decisions import ContrastLook, SeedPair
from touchline.strategy.design import (
    candidate_looks,
    choose_looks,
    design_changes,
    design_digest,
    refuse_impossible,
    seeds_of_one_test,
)
from touchline.strategy.evidence import Evidence, take_look
from touchline.strategy.group_sequential import LEVEL, efficacy_bounds, futility_bounds, shown_effect, stopping_chances
from touchline.strategy.state import cells_of, decision_line, state_of
from touchline.strategy.strategy import started_plan

pytestmark = pytest.mark.planning
SEEDS = (11, 12, 13, 14)


def run_of(rank: int, rate: str, seed: int) -> PlannedRun:
    levels = (
        Level(factor="train.lora.rank", value=str(rank)),
        Level(factor="train.learning_rate", value=rate),
        Level(factor="seeds", value=str(seed)),
    )
    name = f"rank{rank}_{rate}_{seed}"
    return replace(made_run(name), seed=seed, levels=levels, phase=Phase.CONFIRM, digest=name)


def plan_of(**changes: object) -> Plan:
    contrasts = (
        StatedContrast(name="eight", level={"train.lora.rank": "8"}, against={"train.lora.rank": "4"}),
        StatedContrast(name="two", level={"train.lora.rank": "4"}, against={"train.lora.rank": "2"}),
    )
    strategy = PlannedStrategy(
        explore=None, contrasts=contrasts, seeds=SEEDS, looks=(2, 4), detect=0.02, seed_spread=0.01
    )
    runs = [run_of(rank, rate, seed) for rank in (2, 4, 8) for rate in ("1e-3", "1e-4") for seed in SEEDS]
    plan = made_plan(*runs, made_control())
    return replace(plan, strategy=replace(strategy, **changes))


def looked(number: int, **verdicts: Verdict) -> dec.StrategyDecision:
    def contrast(name: str, verdict: Verdict) -> dec.ContrastLook:
        return dec.ContrastLook(
            contrast=name, pairs=(), difference=0.01, error=0.01, wide_error=None, t=1.0, bound=2.0, futility=None,
            low=None, high=None, verdict=verdict,
        )  # fmt: skip

    look = dec.Look(seeds=(2, 4)[number], contrasts=tuple(contrast(*each) for each in verdicts.items()))
    return dec.StrategyDecision(kind=dec.DecisionKind.LOOK, number=number, design="d", look=look)


def stopped(budget: float | None, reason: dec.StopReason = dec.StopReason.BUDGET) -> dec.StrategyDecision:
    stop = dec.Stop(reason=reason, budget_device_hours=budget, spent_device_hours=0.9, next_device_hours=0.5)
    return dec.StrategyDecision(kind=dec.DecisionKind.STOP, design="d", stop=stop)


def continuation(budget: float | None) -> dec.StrategyDecision:
    found = dec.Continuation(budget_device_hours=budget, spent_device_hours=0.9, next_device_hours=0.5)
    return dec.StrategyDecision(kind=dec.DecisionKind.CONTINUATION, design="d", continuation=found)


def names(runs: tuple[PlannedRun, ...]) -> set[str]:
    return {run.name for run in runs}


def test_the_first_look_starts_its_seeds_and_the_controls() -> None:
    plan = plan_of()
    state = state_of(plan, [])
    expected = {run.name for run in plan.runs if run.seed in (11, 12)} | {"1M_base"}
    assert names(state.started) == expected == names(state.working)
    assert names(started_plan(strategy_of(plan)).runs) == expected


def test_later_seeds_are_those_of_the_contrasts_that_are_open() -> None:
    plan = plan_of()
    state = state_of(plan, [looked(0, eight=Verdict.ESTABLISHED, two=Verdict.UNDECIDED)])
    assert names(state.newest) == {r.name for r in plan.runs if r.seed in (13, 14) and not r.name.startswith("rank8")}
    assert any(name.startswith("rank8") for name in names(state.started))
    assert not any(name.startswith("rank8") for name in names(state.working))
    settled = state_of(
        plan, [looked(0, eight=Verdict.ESTABLISHED, two=Verdict.UNDECIDED), looked(1, two=Verdict.NOT_ESTABLISHED)]
    )
    assert not settled.undecided
    assert settled.newest == ()


def exploring_plan() -> Plan:
    plan = plan_of(budget_device_hours=5.0)
    assert plan.strategy is not None
    explore = ExploreConfig(reference={"train.lora.rank": 4})
    runs = tuple(replace(run, phase=Phase.EXPLORE) if run.seed == 11 else run for run in plan.runs)
    return replace(plan, runs=runs, strategy=replace(plan.strategy, explore=explore, contrasts=()))


def test_a_stop_that_was_lifted_leaves_no_trace_in_the_state() -> None:
    """After any decision of either phase, once or twice, the state is that of a strategy that never stopped."""
    looks = [
        looked(0, eight=Verdict.UNDECIDED, two=Verdict.UNDECIDED),
        looked(1, eight=Verdict.ESTABLISHED, two=Verdict.NOT_ESTABLISHED),
    ]
    explored = exploring_plan()
    kept, cut = ("rank4_1e-3_11", "rank8_1e-3_11"), ("rank2_1e-3_11",)
    confirmed = plan_of().strategy
    explore = [
        dec.StrategyDecision(kind=dec.DecisionKind.CUT, design="d", cut=dec.Cut(step=3, losses=(), kept=kept, cut=cut)),
        dec.StrategyDecision(
            kind=dec.DecisionKind.CHOICE,
            design="d",
            choice=dec.Choice(losses=(), chosen=kept[1:], contrasts=confirmed.contrasts),
        ),
    ]
    begin = dec.StrategyDecision(kind=dec.DecisionKind.BEGIN, design="d")
    for plan, decisions in ((plan_of(budget_device_hours=5.0), [begin, *looks]), (explored, [begin, *explore, *looks])):
        for place in range(1, len(decisions) + 1):
            before, after = decisions[:place], decisions[place:]
            lifted = [*before, stopped(1.0), continuation(3.0), stopped(3.0), continuation(5.0)]
            for left in range(len(after) + 1):
                found = state_of(plan, [*lifted, *after[:left]])
                assert replace(found, decisions=()) == replace(state_of(plan, [*before, *after[:left]]), decisions=())
            ended = state_of(plan, lifted[:-1])
            assert ended.stop is not None
            assert not ended.newest


def test_the_budget_is_no_part_of_the_design() -> None:
    plan, raised = plan_of(budget_device_hours=5.0), plan_of(budget_device_hours=9.0)
    assert design_digest(plan) == design_digest(raised) == design_digest(plan_of())
    assert list(design_changes(plan, raised, describe_change)) == []
    (changed,) = design_changes(plan, plan_of(budget_device_hours=9.0, detect=0.03), describe_change)
    assert changed == "strategy: detect was 0.02 and is 0.03"


def test_sides_are_compared_in_the_conditions_that_both_have() -> None:
    """Other factors are held equal; where another factor changes with the level, all runs are one cell."""
    plan = plan_of()
    eight = plan.strategy.contrasts[0]
    cells = cells_of(plan, eight, 2)
    assert [(len(cell.level), len(cell.against)) for cell in cells] == [(2, 2), (2, 2)]
    assert [{run.levels[1].value for run in cell.runs} for cell in cells] == [{"1e-3"}, {"1e-4"}]
    kept = [run for run in plan.runs if not (run.name.startswith("rank8") and "1e-4" in run.name)]
    (only,) = cells_of(replace(plan, runs=tuple(kept)), eight, 2)
    assert {run.levels[1].value for run in only.runs} == {"1e-3"}
    tied = [run for run in plan.runs if run.name.startswith(("rank8_1e-3", "rank4_1e-4"))]
    (whole,) = cells_of(replace(plan, runs=tuple(tied)), eight, 2)
    assert (len(whole.level), len(whole.against)) == (2, 2)


def test_a_smaller_micro_batch_is_the_same_design_and_another_rate_is_not() -> None:
    plan = plan_of()

    def with_train(**changes: object) -> Plan:
        first = plan.runs[0]
        assert first.train is not None
        other = replace(first, train=replace(first.train, **changes), digest="x")
        return replace(plan, runs=(other, *plan.runs[1:]))

    assert design_digest(with_train(micro_batch_size=4)) == design_digest(plan)
    assert design_digest(with_train(learning_rate=0.5)) != design_digest(plan)
    assert list(design_changes(plan, with_train(micro_batch_size=4), describe_change)) == []
    (changed,) = design_changes(plan, with_train(learning_rate=0.5), describe_change)
    assert changed == f"{plan.runs[0].name}: train changed"
    (changed,) = design_changes(plan, plan_of(looks=(2, 3, 4)), describe_change)
    assert changed == "strategy: looks was [2, 4] and is [2, 3, 4]"
    (changed,) = design_changes(plan, replace(plan, runs=plan.runs[1:]), describe_change)
    assert changed == f"{plan.runs[0].name} was removed"


def test_costs_lie_between_the_first_look_and_the_last() -> None:
    """Expected costs need the spread between seeds."""
    costs = strategy_costs(plan_of())
    assert costs.most is not None
    assert costs.least < costs.without_effect < costs.most
    assert costs.least < costs.promised < costs.most
    hours = (3600 + 600) / 3600
    assert costs.least == pytest.approx(12 * hours + 600 / 3600)
    assert costs.most == pytest.approx(24 * hours + 600 / 3600)
    unknown = strategy_costs(plan_of(seed_spread=None))
    assert (unknown.without_effect, unknown.promised) == (None, None)
    assert [look.futility is None for look in look_bounds(plan_of())] == [False, True]


def test_the_plan_states_the_power_of_its_looks() -> None:
    """Two looks at four seeds show 1 point among 10 points of spread almost never, and the plan must not say 80 %."""
    plan = plan_of(detect=0.01, seed_spread=0.1)
    assert plan.strategy is not None
    power = promised_power(plan.strategy, 2)
    level = LEVEL / 2
    assert power == pytest.approx(
        stopping_chances((2, 4), 0.1, efficacy_bounds((2, 4), level), futility_bounds((2, 4), 0.1, level=level)).power
    )
    assert power < 0.1

    def lines(plan: Plan) -> str:
        return " ".join(line for section in strategy_of(plan).sections() for line in section.lines)

    assert f"established with {100 * power:.0f}% power if true, less where items vary" in lines(plan)
    assert "with unknown power" in lines(plan_of(seed_spread=None))


def test_a_strategy_that_could_decide_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="one run is predicted to take"):
        refuse_impossible(plan_of(budget_device_hours=1.0), None)
    lonely = StatedContrast(name="lonely", level={"train.lora.rank": "64"}, against={"train.lora.rank": "2"})
    with pytest.raises(InputError, match="lonely has no run for one of its sides"):
        refuse_impossible(plan_of(contrasts=(lonely,)), None)
    with pytest.raises(InputError, match="5 test items can establish nothing"):
        refuse_impossible(plan_of(), 5)
    refuse_impossible(plan_of(budget_device_hours=2.0), 6)


def status_line(plan: Plan, *decisions: dec.StrategyDecision) -> str:
    status = strategy_of(plan, decisions).status()
    return status.line


def test_the_status_is_one_line() -> None:
    assert status_line(plan_of(), looked(0, eight=Verdict.ESTABLISHED, two=Verdict.UNDECIDED)) == (
        "strategy: confirm, before look 2 of 2 with 4 seeds; eight: established (+1 points, t 1.00, bound 2.00); "
        "two: undecided (+1 points, t 1.00, bound 2.00); 4 planned runs not started"
    )
    ended = "the budget of 1 device-hours: 0.9 device-hours spent, and the next runs are predicted to take 0.5"
    lines = {budget: status_line(plan_of(budget_device_hours=budget), stopped(1.0)) for budget in (0.5, 1.0, 5.0)}
    assert lines[0.5] == lines[1.0]
    assert lines[1.0].startswith(f"strategy: {ended}; ")
    assert ", now the budget of 5 device-hours (continue with `touchline run`" in lines[5.0]
    assert decision_line(stopped(1.0), 2) == f"the strategy ends: {ended}"
    assert decision_line(continuation(None), 2) == (
        "the strategy continues: now no budget, 0.9 device-hours are spent, the next runs are predicted to take 0.5"
    )
    assert strategy_of(replace(plan_of(), strategy=None)).status() is None


def test_explore_that_the_budget_stopped_is_not_worked_on() -> None:
    exploring = exploring_plan()
    assert {run.seed for run in state_of(exploring, []).working if run.phase is Phase.EXPLORE} == {11}
    stop = dec.StrategyDecision(kind=dec.DecisionKind.STOP, design="d", stop=dec.Stop(reason=dec.StopReason.BUDGET))
    assert names(state_of(exploring, [stop]).working) == {"1M_base"}


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
