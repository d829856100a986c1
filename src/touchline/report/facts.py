"""Facts of runs that are not in their results: controls, cost, answers, files; numbers and names in plain text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.levels import SEEDS, factor_words, level_words, settings_words
from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.status import JobState, TrainingOutcome
from touchline.core.text import join_names
from touchline.core.units import Scale, bare, is_at_least, plural, scale_of_score, seconds_to_hours
from touchline.data.scores import EvaluationRecord
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import AttemptResult, LossPoint, RunResult
from touchline.statistics.conclusions import Analysis


def p_text(p: float) -> str:
    """Return `p < 0.001`, `p = 0.049` or `p = 0.31`. The result is never 0 and has three digits near 0.05."""
    return "p < 0.001" if p < 0.001 else f"p = {p_number(p)}"


def p_number(p: float) -> str:
    """Return `<0.001`, `0.049`, `0.31`."""
    return "<0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def level_of(run: RunResult, factor: str) -> str | None:
    """Return a run's level of a factor. None if it has none."""
    return next((level.value for level in run.levels if level.factor == factor), None)


def at_least(value: Quantity) -> Quantity:
    """Return a sum with unknown parts as a lower bound."""
    return replace(value, low=value.value, high=None)


def relative(value: float, reference: float) -> str:
    """Return the relative difference of a loss or a time: `10.5% higher`, `lower by a factor of 4.3`."""
    if not (reference > 0 and value > 0 and math.isfinite(reference) and math.isfinite(value)):
        return "not comparable"
    ratio = value / reference
    if ratio >= 2:
        return f"higher by a factor of {ratio:.1f}"
    if ratio <= 0.5:
        return f"lower by a factor of {1 / ratio:.1f}"
    change = 100 * (ratio - 1)
    if abs(change) < 0.05:
        return "equal within 0.05%"
    return f"{abs(change):.1f}% {'higher' if change > 0 else 'lower'}"


def family_words(analysis: Analysis, number: int, noun: str) -> str:
    """Return the family of Holm's adjustment: `2 contrasts`, or `4 contrasts on the test sets 9L and 13L`."""
    sets = analysis.family_sets
    on = f" on the test set{'s' if len(sets) > 1 else ''} {join_names(sets)}" if sets else ""
    return f"{plural(number, noun)}{on}"


def scale_of(analysis: Analysis) -> Scale:
    """Return the scale of an analysis: per cent for shares of right answers."""
    return scale_of_score(analysis.score, (score.value for score in analysis.scores), is_binary=analysis.binary)


def scale_or_share(analyses: Sequence[Analysis]) -> Scale:
    """Return the scale of the experiment's own score; per cent before anything is evaluated."""
    return scale_of(analyses[0]) if analyses else Scale(share=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """Facts about a run, beside its result."""

    run: str
    """Name of the run."""
    settings: str
    """Levels as text: `rank 64, learning rate 2e-4`; `-` if nothing varies."""
    gpus: int
    """Number of devices used for training."""
    device_hours: Measured
    """Duration of all attempts and evaluations times devices, in h."""
    tokens_per_second_per_gpu: Measured
    """Throughput per GPU, with its token unit; on a CPU it is per process."""
    control: str | None
    """Name of its control; None if it has none or is one."""
    files: tuple[tuple[str, str], ...]
    """(kind, path relative to the experiment) of the files with its numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounts:
    """Counts of the answers of one evaluation, independent of their score."""

    run: str
    """Name of the run."""
    checkpoint: str
    """Name of the checkpoint."""
    task: str
    """Name of the task."""
    answers: int
    """Number of answers, repeats included."""
    empty: int
    """Number of empty answers."""
    cut: int | None
    """Number of answers truncated at the token limit; None if it was not recorded."""
    errors: int
    """Number of answers that were not generated. They count as wrong."""
    parsed: int | None
    """Number of answers that could be parsed; None if the task does not parse."""


RISEN = 1.05
"""Ratio of the last to the lowest validation loss above which the rise is reported. Less is within its noise."""
CUT = frozenset({"max_tokens", "length", "model_length"})  # Stop reasons that mean a truncated answer
_LEVELS_SHOWN = 12
_CONTROLS = {
    ControlKind.BASE: "untrained base model",
    ControlKind.NO_OP: "adapter that changes nothing",
    ControlKind.SHUFFLED: "trained on shuffled answers",
}
_NOT_EVALUATED = Missing(missing="not evaluated")


def run_facts(gathered: ReportInputs, analysis: Analysis | None) -> tuple[RunFacts, ...]:
    """Return the facts of every run, in order."""
    gpus = devices_of(gathered)
    shares = attempt_shares(gathered.runs)
    hours = {run.name: device_hours(run, gpus[run.name], slots_of(gathered), shares) for run in gathered.runs}
    controls = controls_of(gathered, analysis)
    return tuple(
        RunFacts(
            run=run.name,
            settings=settings_words(run.levels),
            gpus=gpus[run.name],
            device_hours=hours[run.name],
            tokens_per_second_per_gpu=_per_device(run.tokens_per_second, gpus[run.name]),
            control=controls.get(run.name),
            files=tuple(gathered.files.get(run.name, ())),
        )
        for run in gathered.runs
    )


def devices_of(gathered: ReportInputs) -> dict[str, int]:
    """Return the number of GPUs of each run. A CPU counts as one device, and so does an unknown device."""
    plan = gathered.plan
    if plan is not None:
        return dict.fromkeys((run.name for run in gathered.runs), plan.devices)
    gpus = _gpus_told(gathered.runs)
    return {run.name: max(gpus.get(run.name, 1), 1) for run in gathered.runs}


def device_word(gathered: ReportInputs) -> str:
    """Return the name of the devices, such as `GPU`; `device` if unknown."""
    if gathered.plan is not None:
        return "GPU" if gathered.plan.machine.kind == "gpu" else "CPU"
    gpus = _gpus_told(gathered.runs)
    kinds = {gpus.get(run.name, -1) > 0 for run in gathered.runs if run.kind is RunKind.FINE_TUNED}
    return "GPU" if kinds == {True} else "device"


def _gpus_told(runs: Sequence[RunResult]) -> dict[str, int]:
    found = {run.name: run.settings.get("gpus") for run in runs}
    return {name: int(gpus) for name, gpus in found.items() if isinstance(gpus, int | float) and math.isfinite(gpus)}


def seeds_of(runs: Sequence[RunResult]) -> dict[str, int]:
    """Return the seed of each run in the plan or a file. Runs with an unknown seed are left out."""
    found = {run.name: run.settings.get("seed") for run in runs}
    return {name: seed for name, seed in found.items() if isinstance(seed, int) and not isinstance(seed, bool)}


def compared_text(runs: Sequence[RunResult], factors: Mapping[str, Sequence[str]], seeds: Mapping[str, int]) -> str:
    """Return a description of the comparison: the levels of each factor, the seeds, the controls."""
    varied = [
        f"{factor_words(factor)} {join_names(levels, _LEVELS_SHOWN)}"
        for factor, levels in factors.items()
        if len(levels) > 1 and factor != SEEDS
    ]
    asked = [run for run in runs if is_asked_about(run)]
    own = sorted({seeds[run.name] for run in asked if run.name in seeds})
    if own:
        noun = "training seed" if len(own) == 1 else "training seeds"
        varied.append(f"{noun} {join_names([str(seed) for seed in own], _LEVELS_SHOWN)}")
    controls = [run for run in runs if run.kind is RunKind.CONTROL or run.control is not None]
    if controls:
        noun = "control" if len(controls) == 1 else "controls"
        names = [f"{run.name} ({_CONTROLS[run.control or ControlKind.BASE]})" for run in controls]
        varied.append(f"{noun} {join_names(names, _LEVELS_SHOWN)}")
    if not varied:
        return "nothing varies between the runs"
    return "; ".join(varied)


def is_base_control(run: RunResult) -> bool:
    """Return True if a run is the untrained base model."""
    return run.kind is RunKind.CONTROL and run.control in (None, ControlKind.BASE)


def is_asked_about(run: RunResult) -> bool:
    """Return True if a run is a subject of the experiment and not a control."""
    return run.kind is RunKind.FINE_TUNED and run.control is None


def is_failed_exit(run: RunResult) -> bool:
    """Return True if a training is complete although its job failed. The exit code is reported but does not decide."""
    state = run.job_state
    ended_badly = state is not None and state.ended and state is not JobState.COMPLETED
    return run.kind is RunKind.FINE_TUNED and run.outcome is TrainingOutcome.COMPLETE and ended_badly


def condition_of(run: RunResult) -> tuple[object, ...]:
    """Return what runs share that differ in the training seed only."""
    levels = tuple(level for level in run.levels if level.factor != SEEDS)
    return run.kind, run.control, run.model, run.dataset, run.phase, levels


def condition_words(run: RunResult, *, with_model: bool) -> str:
    """Return the levels of a run but its seed: `1B, rank 4`; its base model if it has none."""
    left = (SEEDS,) if with_model else (SEEDS, "models")
    words = [level_words(level.factor, level.value) for level in run.levels if level.factor not in left]
    return ", ".join(words) or run.model


def controls_of(gathered: ReportInputs, analysis: Analysis | None) -> dict[str, str]:
    """Return each run's control: the one that it was compared with, else that of its base model and dataset."""
    bases = {(run.model, run.dataset): run.name for run in gathered.runs if is_base_control(run)}
    found = {
        run.name: control
        for run in gathered.runs
        if not is_base_control(run) and (control := bases.get((run.model, run.dataset))) is not None
    }
    compared = () if analysis is None else analysis.comparisons
    return found | {each.run: each.difference.control for each in compared}


def slots_of(gathered: ReportInputs) -> int:
    """Return the number of trainings that shared a CPU, each of which held its share of it."""
    return 1 if gathered.plan is None else gathered.plan.machine.slots


AttemptShares = Mapping[tuple[str, int, float], int]
"""Number of runs that record the same attempt, by job, restart and start: those of a cohort."""


def attempt_shares(runs: Sequence[RunResult]) -> AttemptShares:
    """Return how many runs share each attempt. Those that train side by side as a cohort each record it."""
    return Counter(_key(attempt) for run in runs if run.cohort for attempt in run.attempt_list)


def _key(attempt: AttemptResult) -> tuple[str, int, float]:
    return attempt.job_id, attempt.restart, attempt.started_unix


def device_hours(run: RunResult, gpus: int, slots: int = 1, shares: AttemptShares | None = None) -> Measured:
    """Return the duration of all attempts and evaluations times devices, in h; of a control that of its evaluations."""
    evaluation = _hours(evaluation_seconds(run), gpus)
    if run.kind is RunKind.CONTROL:
        return evaluation
    training = training_hours(run, gpus / slots, shares)
    if isinstance(training, Missing) or isinstance(evaluation, Missing):
        return training
    total = replace(training, value=training.value + evaluation.value, method=f"{training.method}; {evaluation.method}")
    return at_least(total) if is_at_least(training) else total


def training_hours(run: RunResult, gpus: float, shares: AttemptShares | None = None) -> Measured:
    """Return the duration of all attempts at a training times devices, in h; of a shared attempt an equal part."""
    lasted = [attempt.seconds for attempt in run.attempt_list]
    known = [
        attempt.seconds.value / (shares or {}).get(_key(attempt), 1)
        for attempt in run.attempt_list
        if isinstance(attempt.seconds, Quantity) and math.isfinite(attempt.seconds.value)
    ]
    if not known:
        return _hours(finite(run.train_seconds), gpus)
    untold = len(lasted) - len(known)
    method = plural(len(known), "attempt") + (f"; {untold} of unknown length not counted" if untold else "")
    total = math.fsum(known)
    seconds = Quantity(value=total, unit="s", aggregation="sum", method=method)
    return _hours(at_least(seconds) if untold else seconds, gpus)


def evaluation_seconds(run: RunResult) -> Measured:
    """Return the wall-clock time of all recorded evaluations, of every checkpoint and task."""
    records = (*run.evaluations, *run.other_evaluations)
    if not records:
        return run.evaluate_seconds if isinstance(run.evaluate_seconds, Quantity) else _NOT_EVALUATED
    seconds = math.fsum(record.seconds for record in records)
    return Quantity(value=seconds, unit="s", aggregation="sum", method=plural(len(records), "evaluation"))


def all_device_hours(runs: Sequence[RunResult], gpus: Mapping[str, int], slots: int = 1) -> Measured:
    """Return the total device-hours: all attempts at trainings, and all evaluations."""
    parts: list[Quantity] = []
    untold, least = 0, False
    shares = attempt_shares(runs)
    for run in runs:
        trains = run.kind is RunKind.FINE_TUNED
        training = training_hours(run, gpus[run.name] / slots, shares) if trains else device_hours(run, gpus[run.name])
        evaluation = _hours(evaluation_seconds(run), gpus[run.name]) if trains else _NOT_EVALUATED
        parts += measured_of((training, evaluation))
        untold += isinstance(training, Missing)
        # A run that never began took no time. One that began without a recorded time took an unknown time.
        least = least or (isinstance(training, Missing) and run.attempts > 0) or is_at_least(training)
    if not parts:
        return Missing(missing="no time was measured")
    method = "all attempts and evaluations" + (
        f"; {plural(untold, 'run')} without a time not counted" if untold else ""
    )
    total = Quantity(value=math.fsum(part.value for part in parts), unit="h", aggregation="sum", method=method)
    return at_least(total) if least else total


def answer_counts(runs: Sequence[RunResult]) -> tuple[AnswerCounts, ...]:
    """Return the counts of empty, truncated, failed and readable answers for every evaluation."""
    return tuple(_counted(run.name, record) for run in runs for record in (*run.evaluations, *run.other_evaluations))


def _counted(run: str, record: EvaluationRecord) -> AnswerCounts:
    told_end = [sample.stop for sample in record.samples if sample.stop is not None]
    told_parse = [sample.parsed for sample in record.samples if sample.parsed is not None]
    return AnswerCounts(
        run=run,
        checkpoint=record.checkpoint,
        task=record.label,
        answers=len(record.samples),
        empty=sum(not sample.output.strip() and sample.error is None for sample in record.samples),
        cut=sum(stop in CUT for stop in told_end) if told_end else None,
        errors=sum(sample.error is not None for sample in record.samples),
        parsed=sum(told_parse) if told_parse else None,
    )


def lowest(points: Sequence[LossPoint]) -> LossPoint | None:
    """Return the lowest finite loss after the first step, the earliest of equals."""
    known = [point for point in points if point.step > 0 and math.isfinite(point.loss)]
    return min(known, key=lambda point: point.loss, default=None)


def risen(run: RunResult) -> tuple[LossPoint, LossPoint] | None:
    """Return the lowest and the last validation loss if the last is clearly above the lowest."""
    best = lowest(run.validation_losses)
    last = next((point for point in reversed(run.validation_losses) if math.isfinite(point.loss)), None)
    if best is None or last is None or last.step <= best.step or last.loss < RISEN * best.loss:
        return None
    return best, last


def measured_of(values: Iterable[Measured]) -> list[Quantity]:
    """Return those that are measured."""
    return [value for value in values if isinstance(value, Quantity)]


def of_both(one: Measured, other: Measured, combine: Callable[[Quantity, Quantity], Measured]) -> Measured:
    """Return a figure of two others; with a missing one, the first of these."""
    if isinstance(one, Missing) or isinstance(other, Missing):
        return one if isinstance(one, Missing) else other
    return combine(one, other)


def generalization_gap(run: RunResult) -> Measured:
    """Return the last validation loss minus the final training loss."""
    method = "validation loss minus training loss"
    return of_both(
        finite(run.final_train_loss),
        finite(run.final_val_loss),
        lambda train, last: Quantity(value=last.value - train.value, unit=last.unit, method=method),
    )


def not_finite(run: RunResult) -> int:
    """Return the number of non-finite losses."""
    return sum(not math.isfinite(point.loss) for point in (*run.train_losses, *run.validation_losses))


def _per_device(value: Measured, gpus: int) -> Measured:
    known = finite(value)
    # Some trainers already log the rate per GPU.
    if isinstance(known, Missing) or gpus == 1 or known.unit.endswith("/GPU"):
        return known
    how = f"{bare(known)} over {gpus} GPUs"
    return Quantity(
        value=known.value / gpus,
        unit=known.unit,
        token_unit=known.token_unit,
        aggregation=known.aggregation,
        method=f"{known.method}; {how}" if known.method else how,
        where=known.where,
    )


def _hours(seconds: Measured, gpus: float) -> Measured:
    if isinstance(seconds, Missing):
        return seconds
    hours = Quantity(
        value=seconds_to_hours(seconds.value) * gpus, unit="h", aggregation=seconds.aggregation, method=seconds.method
    )
    return at_least(hours) if is_at_least(seconds) else hours
