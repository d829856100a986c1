"""Experiments with a strategy, out of stated numbers: planned runs, results of those that were made, and decisions."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.report import made_gathered as made
from tests.run.made_plans import made_control, made_plan, made_run

from touchline.core.levels import Level
from touchline.core.quantity import Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ExploreConfig, PlannedStrategy, StatedContrast
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.results.scored import compared
from touchline.statistics.conclusions import Verdict
from touchline.strategy import decisions as dec
from touchline.strategy import strategy_of
from touchline.strategy.strategy import started_plan

SEEDS = (11, 12, 13, 14, 15, 16)
LOOKS = (3, 4, 6)
RANKS = ("4", "8", "16", "64")
HIGH = StatedContrast(name="high", level={made.RANK: "64"}, against={made.RANK: "4"})
MIDDLE = StatedContrast(name="middle", level={made.RANK: "16"}, against={made.RANK: "4"})
DETECT = 0.02
STEPS = 20


def name_of(rank: str, seed: int, phase: Phase) -> str:
    return f"1M_rank{rank}_{phase.value}_s{seed}"


def planned(rank: str, seed: int, phase: Phase) -> PlannedRun:
    run = made_run(name_of(rank, seed, phase))
    levels = (Level(factor="models", value="1M"), Level(factor=made.RANK, value=rank))
    return replace(run, seed=seed, phase=phase, levels=levels, digest=f"{rank}{seed}")


def confirm_plan(*contrasts: StatedContrast, looks: Sequence[int] = LOOKS, budget: float | None = None) -> Plan:
    ranks = [r for r in RANKS if any(r in (each.level[made.RANK], each.against[made.RANK]) for each in contrasts)]
    runs = [planned(rank, seed, Phase.CONFIRM) for rank in ranks for seed in SEEDS]
    strategy = PlannedStrategy(
        explore=None, contrasts=contrasts, seeds=SEEDS, looks=tuple(looks), detect=DETECT, budget_device_hours=budget
    )
    return replace(made_plan(*runs, made_control()), strategy=strategy, factors={made.RANK: tuple(ranks)})


def explore_plan(*, confirm: bool = True) -> Plan:
    runs = [planned(rank, 1, Phase.EXPLORE) for rank in RANKS]
    if confirm:
        runs += [planned(rank, seed, Phase.CONFIRM) for rank in RANKS for seed in SEEDS]
    reference: dict[str, object] = {made.RANK: 8}
    strategy = PlannedStrategy(
        explore=ExploreConfig(at=(0.25, 0.5), reference=reference),
        reference={made.RANK: "8"},
        seeds=SEEDS if confirm else (),
        looks=LOOKS if confirm else (),
        detect=DETECT if confirm else 0.0,
    )
    return replace(made_plan(*runs, made_control()), strategy=strategy, factors={made.RANK: RANKS})


def trained(run: PlannedRun, right: int, **changes: object) -> RunResult:
    rank = run.levels[-1].value
    record = made.record(run.name, "epoch_1", made.rights(right, 200))
    losses = made.points(*((step, 2.0 / (1 + step) ** (0.5 + int(rank) / 200)) for step in (0, 5, 10, 15, 20)))
    result = made.run(
        run.name,
        "Tiny-1M-Instruct",
        rank=rank,
        seed=run.seed,
        evaluations=[record],
        val=made.loss(losses[-1].loss),
        seconds=3500.0,
        steps=STEPS,
        validation_losses=losses,
        train_losses=losses[1:],
        phase=run.phase,
    )
    return replace(result, **changes)


def cut_run(run: PlannedRun, step: int) -> RunResult:
    """A run that explore cut: its job ended well, and its curves end at the point."""
    whole = trained(run, 100)
    return replace(
        whole,
        status=RunStatus.CUT,
        outcome=TrainingOutcome.PARTIAL,
        job_state=JobState.COMPLETED,
        attempt_list=(made.attempt("7", seconds=3500.0 * step / STEPS),),
        steps_done=step,
        evaluations=(),
        evaluate_seconds=made.UNKNOWN,
        exact_match=None,
        match=None,
        train_losses=tuple(point for point in whole.train_losses if point.step <= step),
        validation_losses=tuple(point for point in whole.validation_losses if point.step <= step),
        train_seconds=Quantity(value=3500.0 * step / STEPS, unit="s"),
        cut_after_step=step,
    )


def decision(kind: dec.DecisionKind, number: int = 0, **content: object) -> dec.StrategyDecision:
    return dec.StrategyDecision(kind=kind, number=number, design="d" * 64, **content)


def seen(
    contrast: StatedContrast,
    scores: Mapping[int, tuple[float, float]],
    *,
    bound: float,
    futility: float | None,
    verdict: Verdict,
    wide_error: float | None = None,
    diverged: Mapping[int, str] | None = None,
) -> dec.ContrastLook:
    differences = [level - against for level, against in scores.values()]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    larger = max(error, wide_error or 0.0)
    arm = bound * larger
    pairs = tuple(
        dec.SeedPair(
            seed=seed, level=level, against=against, diverged=(diverged[seed],) if seed in (diverged or {}) else ()
        )
        for seed, (level, against) in scores.items()
    )
    return dec.ContrastLook(
        contrast=contrast.name,
        pairs=pairs,
        difference=mean,
        error=error,
        wide_error=wide_error,
        t=mean / larger if larger else None,
        level=0.0125,
        bound=bound,
        futility=futility,
        low=mean - arm if arm else None,
        high=mean + arm if arm else None,
        verdict=verdict,
    )


def look(number: int, *contrasts: dec.ContrastLook) -> dec.StrategyDecision:
    return decision(
        dec.DecisionKind.LOOK, number - 1, look=dec.Look(seeds=len(contrasts[0].pairs), contrasts=contrasts)
    )


def stopped(
    reason: dec.StopReason = dec.StopReason.SETTLED, *, budget: float | None = None, more: float | None = None
) -> dec.StrategyDecision:
    stop = dec.Stop(reason=reason, budget_device_hours=budget, spent_device_hours=4.0, next_device_hours=more)
    return decision(dec.DecisionKind.STOP, stop=stop)


HIGH_SCORES = {11: (0.80, 0.765), 12: (0.81, 0.78), 13: (0.79, 0.765), 14: (0.805, 0.77)}
MIDDLE_SCORES = {
    11: (0.76, 0.765),
    12: (0.775, 0.78),
    13: (0.77, 0.765),
    14: (0.765, 0.77),
    15: (0.77, 0.77),
    16: (0.77, 0.78),
}


def first(scores: Mapping[int, tuple[float, float]], count: int) -> dict[int, tuple[float, float]]:
    return dict(list(scores.items())[:count])


def two_contrasts() -> tuple[dec.StrategyDecision, ...]:
    return (
        decision(dec.DecisionKind.BEGIN),
        look(
            1,
            seen(HIGH, first(HIGH_SCORES, 3), bound=16.3, futility=-2.0, verdict=Verdict.UNDECIDED),
            seen(MIDDLE, first(MIDDLE_SCORES, 3), bound=16.3, futility=-2.0, verdict=Verdict.UNDECIDED),
        ),
        look(
            2,
            seen(HIGH, HIGH_SCORES, bound=6.5, futility=-0.4, verdict=Verdict.ESTABLISHED, wide_error=0.004),
            seen(MIDDLE, first(MIDDLE_SCORES, 4), bound=4.9, futility=-0.4, verdict=Verdict.OUT_OF_REACH),
        ),
        stopped(),
    )


def explored(*, looks: int = 1) -> tuple[dec.StrategyDecision, ...]:
    names = {rank: name_of(rank, 1, Phase.EXPLORE) for rank in RANKS}
    best = StatedContrast(
        name=names["64"], level={"models": "1M", made.RANK: "64"}, against={"models": "1M", made.RANK: "8"}
    )
    scores = {11: (0.80, 0.765), 12: (0.81, 0.78), 13: (0.0, 0.765), 14: (0.805, 0.77)}
    at = [
        decision(
            dec.DecisionKind.CUT,
            0,
            cut=dec.Cut(
                step=5,
                losses=tuple(
                    dec.RunLoss(run=names[rank], loss=loss)
                    for rank, loss in zip(RANKS, (None, 0.9, 0.5, 0.4), strict=True)
                ),
                kept=(names["8"], names["16"], names["64"]),
                cut=(names["4"],),
            ),
        ),
        decision(
            dec.DecisionKind.CUT,
            1,
            cut=dec.Cut(
                step=10,
                losses=tuple(
                    dec.RunLoss(run=names[rank], loss=loss)
                    for rank, loss in zip(RANKS[1:], (0.7, 0.45, 0.3), strict=True)
                ),
                kept=(names["8"], names["64"]),
                cut=(names["16"],),
            ),
        ),
        decision(
            dec.DecisionKind.CHOICE,
            choice=dec.Choice(
                losses=(dec.RunLoss(run=names["8"], loss=0.6), dec.RunLoss(run=names["64"], loss=0.25)),
                chosen=(names["64"],),
                contrasts=(best,),
            ),
        ),
        *(
            look(
                place + 1,
                seen(
                    best,
                    first(scores, LOOKS[place]),
                    bound=(8.0, 5.0)[place],
                    futility=(-1.0, -0.2)[place],
                    verdict=Verdict.UNDECIDED,
                    diverged={13: name_of("64", 13, Phase.CONFIRM)},
                ),
            )
            for place in range(looks)
        ),
    ]
    return (decision(dec.DecisionKind.BEGIN), *at)


def gathered(
    plan: Plan, decisions: Sequence[dec.StrategyDecision], rights: Mapping[str, int] | None = None
) -> ReportInputs:
    """What the report reads: the runs that were made are complete, cut ones end at their point."""
    strategy = strategy_of(plan, decisions)
    looked = {pair.seed for each in decisions if each.look for found in each.look.contrasts for pair in found.pairs}
    started = started_plan(strategy)
    results = []
    for run in started.runs:
        if run.phase is None:
            results.append(made.control(run.name, run.model, made.rights(40, 200)))
        elif run.name in strategy.cut:
            results.append(cut_run(run, strategy.cut[run.name]))
        elif run.phase is Phase.CONFIRM and run.seed not in looked:
            results.append(unstarted(run))
        else:
            results.append(trained(run, (rights or {}).get(run.levels[-1].value, 150)))
    found = made.gathered(compared(results), factors=dict(plan.factors))
    return replace(found, plan=started, origin="planned by touchline 0", strategy=strategy)


def unstarted(run: PlannedRun) -> RunResult:
    return replace(
        trained(run, 0),
        status=RunStatus.PLANNED,
        outcome=TrainingOutcome.NOT_STARTED,
        job_state=None,
        attempts=0,
        attempt_list=(),
        steps_done=0,
        evaluations=(),
        evaluate_seconds=made.UNKNOWN,
        exact_match=None,
        match=None,
        train_losses=(),
        validation_losses=(),
        train_seconds=made.UNKNOWN,
        final_val_loss=made.UNKNOWN,
    )
