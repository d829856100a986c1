"""State of a strategy from its decisions alone: runs that are started, needed and left; the design and its digest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.run.made_plans import made_control, made_plan, made_run

from touchline.core.errors import InputError
from touchline.core.levels import Level
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy, StatedContrast
from touchline.plan.drift import describe_change
from touchline.statistics.conclusions import Verdict
from touchline.strategy.costs import look_bounds, promised_power, strategy_costs
from touchline.strategy.decisions import (
    Choice,
    Continuation,
    ContrastLook,
    Cut,
    DecisionKind,
    Look,
    Stop,
    StopReason,
    StrategyDecision,
)
from touchline.strategy.design import design_changes, design_digest, refuse_impossible
from touchline.strategy.group_sequential import LEVEL, efficacy_bounds, futility_bounds, stopping_chances
from touchline.strategy.state import cells_of, state_of
from touchline.strategy.strategy import started_plan, strategy_of
from touchline.strategy.text import decision_line

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
    return replace(plan, strategy=replace(strategy, **changes))  # type: ignore[arg-type]


def looked(number: int, **verdicts: Verdict) -> StrategyDecision:
    def contrast(name: str, verdict: Verdict) -> ContrastLook:
        return ContrastLook(
            contrast=name, pairs=(), difference=0.01, error=0.01, wide_error=None, t=1.0, bound=2.0, futility=None,
            low=None, high=None, verdict=verdict,
        )  # fmt: skip

    look = Look(seeds=(2, 4)[number], contrasts=tuple(contrast(*each) for each in verdicts.items()))
    return StrategyDecision(kind=DecisionKind.LOOK, number=number, design="d", look=look)


def stopped(budget: float | None, reason: StopReason = StopReason.BUDGET) -> StrategyDecision:
    stop = Stop(reason=reason, budget_device_hours=budget, spent_device_hours=0.9, next_device_hours=0.5)
    return StrategyDecision(kind=DecisionKind.STOP, design="d", stop=stop)


def continuation(budget: float | None) -> StrategyDecision:
    found = Continuation(budget_device_hours=budget, spent_device_hours=0.9, next_device_hours=0.5)
    return StrategyDecision(kind=DecisionKind.CONTINUATION, design="d", continuation=found)


def names(runs: tuple[PlannedRun, ...]) -> set[str]:
    return {run.name for run in runs}


def test_the_first_look_starts_its_seeds_and_the_controls() -> None:
    plan = plan_of()
    state = state_of(plan, [])
    expected = {run.name for run in plan.runs if run.seed in (11, 12)} | {"1M_base"}
    assert names(state.started) == expected == names(state.working)
    assert names(started_plan(strategy_of(plan)).runs) == expected


def test_later_seeds_are_those_of_the_contrasts_that_are_open() -> None:
    """What a decided contrast had stays listed, and is no longer worked on."""
    plan = plan_of()
    state = state_of(plan, [looked(0, eight=Verdict.ESTABLISHED, two=Verdict.UNDECIDED)])
    assert names(state.newest) == {
        run.name for run in plan.runs if run.seed in (13, 14) and not run.name.startswith("rank8")
    }
    assert any(name.startswith("rank8") for name in names(state.started))
    assert not any(name.startswith("rank8") for name in names(state.working))
    settled = state_of(
        plan, [looked(0, eight=Verdict.ESTABLISHED, two=Verdict.UNDECIDED), looked(1, two=Verdict.NOT_ESTABLISHED)]
    )
    assert not settled.undecided
    assert settled.newest == ()


def exploring_plan() -> Plan:
    """A plan whose runs with the first seed are those of explore."""
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
    assert confirmed is not None
    explore = [
        StrategyDecision(kind=DecisionKind.CUT, design="d", cut=Cut(step=3, losses=(), kept=kept, cut=cut)),
        StrategyDecision(
            kind=DecisionKind.CHOICE,
            design="d",
            choice=Choice(losses=(), chosen=kept[1:], contrasts=confirmed.contrasts),
        ),
    ]
    begin = StrategyDecision(kind=DecisionKind.BEGIN, design="d")
    for plan, decisions in (
        (plan_of(budget_device_hours=5.0), [begin, *looks]),
        (explored, [begin, *explore, *looks]),
    ):
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
    """Another change is named alone."""
    plan, raised = plan_of(budget_device_hours=5.0), plan_of(budget_device_hours=9.0)
    assert design_digest(plan) == design_digest(raised) == design_digest(plan_of())
    assert list(design_changes(plan, raised, describe_change)) == []
    (changed,) = design_changes(plan, plan_of(budget_device_hours=9.0, detect=0.03), describe_change)
    assert changed == "strategy: detect was 0.02 and is 0.03"


def test_sides_are_compared_in_the_conditions_that_both_have() -> None:
    """Other factors are held equal; where another factor changes with the level, all runs are one cell."""
    plan = plan_of()
    assert plan.strategy is not None
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
        other = replace(first, train=replace(first.train, **changes), digest="x")  # type: ignore[arg-type]
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
    assert costs is not None
    assert costs.least is not None
    assert costs.without_effect is not None
    assert costs.promised is not None
    assert costs.most is not None
    assert costs.least < costs.without_effect < costs.most
    assert costs.least < costs.promised < costs.most
    hours = (3600 + 600) / 3600
    assert costs.least == pytest.approx(12 * hours + 600 / 3600)
    assert costs.most == pytest.approx(24 * hours + 600 / 3600)
    unknown = strategy_costs(plan_of(seed_spread=None))
    assert unknown is not None
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
    assert power is not None
    assert power < 0.1

    def lines(plan: Plan) -> str:
        return " ".join(line for section in strategy_of(plan).sections() for line in section.lines)

    assert f"established with {100 * power:.0f}% power if true, less where items vary" in lines(plan)
    assert "with unknown power" in lines(plan_of(seed_spread=None))


def test_a_strategy_that_could_decide_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="one run is predicted to take"):
        refuse_impossible(plan_of(budget_device_hours=1.0))
    lonely = StatedContrast(name="lonely", level={"train.lora.rank": "64"}, against={"train.lora.rank": "2"})
    with pytest.raises(InputError, match="lonely has no run for one of its sides"):
        refuse_impossible(plan_of(contrasts=(lonely,)))
    refuse_impossible(plan_of(budget_device_hours=2.0))


def status_line(plan: Plan, *decisions: StrategyDecision) -> str:
    status = strategy_of(plan, decisions).status()
    assert status is not None
    return status.line


def test_the_status_is_one_line() -> None:
    """It names the budget that stopped a strategy, and a larger one."""
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
    stop = StrategyDecision(kind=DecisionKind.STOP, design="d", stop=Stop(reason=StopReason.BUDGET))
    assert names(state_of(exploring, [stop]).working) == {"1M_base"}
