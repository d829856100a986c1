"""Results of every run from its folder; a value that was not measured is missing with a reason."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.errors import InputError, TouchlineError
from touchline.core.notes import Note, NoteCode
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import KILLED, Attempt, JobState, TrainingOutcome
from touchline.core.units import plural
from touchline.data.checkpoints import read_checkpoints, read_training_marker
from touchline.data.datasets import load_clusters
from touchline.data.evaluations import current_evaluation, is_earlier, read_evaluations, scores_path
from touchline.data.metrics import Metrics, StepRow, TrainingMarker
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.data.scores import CheckpointInfo, EvaluationRecord
from touchline.data.training_state import paused_step
from touchline.experiment.evaluation import EvaluationConfig
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.experiment.tasks.classification import canonical_label
from touchline.experiment.tasks.ready_made import get_task
from touchline.history.record import RunRecord
from touchline.results.figures import figures_of_log, figures_of_metrics, own_fields, static_config
from touchline.results.run_result import NOT_EVALUATED, AttemptResult, LossPoint, RunResult, StepCurves
from touchline.results.scored import compared, proportion
from touchline.run.folders import cut_runs
from touchline.run.resources import read_resources, resource_figures
from touchline.run.run_status import (
    StatusInputs,
    drop_lock_conflicts,
    job_view_from_files,
    run_status,
    started_and_completed,
    training_outcome,
)
from touchline.run.scripts.folder import evaluation_config
from touchline.run.statusfiles import read_attempts
from touchline.slurm.job_view import JobView
from touchline.statistics.labels import LabelReport, label_report


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evidence:
    metrics: Metrics
    log: RunRecord | None
    """The run in the log of another trainer, if there are no metrics."""
    marker: TrainingMarker | None
    checkpoints: tuple[CheckpointInfo, ...]
    attempts: tuple[Attempt, ...]
    paused: bool
    evaluations: tuple[EvaluationRecord, ...]
    other_evaluations: tuple[EvaluationRecord, ...]
    earlier_evaluations: tuple[EvaluationRecord, ...]
    stale_evaluations: int
    metric_note: str | None
    ready_made: bool
    evaluated: bool
    not_evaluated: tuple[str, ...]
    test_sets: tuple[str, ...]
    cluster_note: str | None


def collect_results(plan: Plan, root: Path, views: Mapping[str, JobView] | None = None) -> list[RunResult]:
    """Return the results of every run of the plan, in its order.

    Args:
        root: the experiment's folder.
        views: job views by name, if the scheduler was queried; otherwise only the folders are read.
    """
    seen = views or {}
    cut = cut_runs(plan, root)
    found = [
        _result(run, _evidence(plan, run, root / run.name), root / run.name, seen.get(run.name), cut.get(run.name))
        for run in plan.runs
    ]
    return compared(found)


def _evidence(plan: Plan, run: PlannedRun, folder: Path) -> _Evidence:
    config = evaluation_config(plan, run)
    checkpoints = read_checkpoints(folder)
    weights = {item.name: item.adapter_sha256 for item in checkpoints}
    records = read_evaluations(folder)
    named = (current_evaluation(record, config, weights.get(record.checkpoint)) for record in records)
    current = [record for record in named if record is not None]
    earlier = [record for record in records if is_earlier(record, config, weights.get(record.checkpoint))]
    # By task in the file's order, then by epoch.
    order = {label: place for place, label in enumerate(config.label_of(task) for task in (None, *config.tasks))}
    current.sort(key=lambda record: (order[record.label], _number(record.checkpoint)))
    clustered, cluster_note = with_clusters(current, config, folder)
    clustered, metric_note = with_metric(clustered, config)
    marker = read_training_marker(folder)
    evaluated = {(record.label, record.checkpoint) for record in current}
    own = config.label_of(None)
    wanted = {(task.label, name) for task in config.tasks for label, name in evaluated if label == own}
    sets = [task.label for task in config.tasks if task.test_set is not None]
    metrics = read_metrics(folder / METRICS)
    return _Evidence(
        metrics=metrics,
        log=None if metrics.steps or run.train is None else _logged(folder),
        marker=marker if marker is not None and marker.run_digest == run.digest else None,
        checkpoints=checkpoints,
        attempts=drop_lock_conflicts(read_attempts(folder / "status")),
        paused=paused_step(folder, run.digest) is not None,
        evaluations=tuple(record for record in clustered if record.label == own),
        other_evaluations=tuple(record for record in clustered if record.label != own),
        earlier_evaluations=tuple(earlier),
        stale_evaluations=len(records) - len(current) - len(earlier),
        metric_note=metric_note,
        ready_made=config.own is None,
        evaluated=any(
            all((label, record.checkpoint) in evaluated for label in sets) for record in current if record.label == own
        ),
        not_evaluated=tuple(f"{name} on {task}" for task, name in sorted(wanted - evaluated)),
        test_sets=() if config.first_set is None else tuple(config.data.test_sets),
        cluster_note=cluster_note,
    )


def _result(
    run: PlannedRun, seen: _Evidence, folder: Path, view: JobView | None, cut_after_step: int | None
) -> RunResult:
    outcome = _outcome(run, seen)
    job = view if view is not None else job_view_from_files(seen.attempts, time.time())
    state = None if job is None else job.state
    standing = StatusInputs(
        kind=run.kind,
        prepared=(folder / ("eval.yaml" if run.kind is RunKind.CONTROL else "finetune.yaml")).exists(),
        outcome=outcome,
        evaluated=seen.evaluated,
        job=job,
        cut=cut_after_step is not None,
    )
    last = seen.evaluations[-1] if seen.evaluations else None
    ready = last if seen.ready_made else None
    trained = run.kind is RunKind.FINE_TUNED
    unread = f"{METRICS} cannot be read" if seen.metrics.unread is not None else "no step has been measured"
    nothing = Missing(missing=unread if trained else "not trained")
    attempts = _attempt_results(folder, seen.attempts) if run.kind is RunKind.FINE_TUNED else ()
    figures = figures_of_log(seen.log) if seen.log is not None else figures_of_metrics(run, seen.metrics, nothing)
    status = run_status(standing)
    started, completed = started_and_completed(seen.attempts, status)
    return RunResult(
        **own_fields(figures),
        name=run.name,
        kind=run.kind,
        model=run.model,
        levels=run.levels,
        seed=run.seed,
        status=status,
        job_state=state,
        outcome=outcome,
        attempts=len(attempts),
        attempt_list=attempts,
        job_id=seen.attempts[-1].start.job_id if seen.attempts else None,
        started=started,
        completed=completed,
        dataset=run.dataset,
        settings=static_config(run),
        steps_done=(seen.metrics.steps[-1].step if seen.metrics.steps else 0) if trained else None,
        steps_planned=run.batches.steps if run.batches is not None else None,
        exact_match=None if ready is None else proportion(ready, [sample.exact for sample in ready.samples]),
        match=None if ready is None else proportion(ready, [sample.match for sample in ready.samples]),
        difference=None,
        evaluate_seconds=Quantity(value=last.seconds, unit="s", aggregation="sum", where=scores_path(last))
        if last is not None
        else NOT_EVALUATED,
        sampled=resource_figures(read_resources(folder / "status")),
        adapter_size=_adapter_size(seen.checkpoints, folder, run.train),
        checkpoints=seen.checkpoints,
        train_losses=tuple(LossPoint(step=row.step, loss=row.loss) for row in seen.metrics.steps),
        curves=_curves(seen.metrics.steps, nothing),
        validation_losses=tuple(LossPoint(step=row.step, loss=row.loss) for row in seen.metrics.validations),
        evaluations=seen.evaluations,
        other_evaluations=seen.other_evaluations,
        earlier_evaluations=seen.earlier_evaluations,
        metric=None if last is None else last.score,
        set_scores=dict.fromkeys(seen.test_sets, NOT_EVALUATED),
        labels=None if last is None else labels_of_record(last),
        control=run.control,
        phase=run.phase,
        cut_after_step=cut_after_step,
        notes=_notes(seen, outcome, state),
    )


def _logged(folder: Path) -> RunRecord | None:
    logs = sorted([*folder.glob("slurm-*.out"), *folder.glob("trainer_log.jsonl"), *folder.glob("trainer_state.json")])
    if not logs:
        return None
    # The readers of every trainer's logs are loaded only where another trainer was at work.
    from touchline.history.files import LoggedRun, find_runs

    found = [run.reading for run in find_runs(logs) if isinstance(run, LoggedRun)]
    return found[-1] if found else None


def _attempt_results(folder: Path, attempts: Sequence[Attempt]) -> tuple[AttemptResult, ...]:
    """Return every attempt at a run's training that reached its own process, oldest first.

    Args:
        folder: run folder, searched for attempts before a re-plan.
        attempts: attempts since then.
    """
    earlier = [path for path in folder.glob("superseded/*/status") if path.parent.name.isdigit()]
    before = [
        _attempt_row(attempt, superseded=True)
        for status in sorted(earlier, key=lambda path: int(path.parent.name))
        for attempt in drop_lock_conflicts(read_attempts(status))
    ]
    return (*before, *(_attempt_row(attempt, superseded=False) for attempt in attempts))


def _attempt_row(attempt: Attempt, *, superseded: bool) -> AttemptResult:
    start, end = attempt.start, attempt.exit
    silent = "it runs" if attempt.alive else KILLED
    return AttemptResult(
        job_id=start.job_id,
        restart=start.restart,
        state=attempt.state,
        reason=silent if end is None else f"{end.reason}, exit code {end.code}" if end.code else end.reason,
        started_unix=start.time_unix,
        seconds=_attempt_seconds(attempt),
        superseded=superseded,
    )


def _attempt_seconds(attempt: Attempt) -> Measured:
    seconds = attempt.elapsed_seconds
    if seconds is None:
        return Missing(missing="no heartbeat")
    method = "until its last heartbeat" if attempt.exit is None else "its clock"
    return Quantity(value=seconds, unit="s", method=method)


def _outcome(run: PlannedRun, seen: _Evidence) -> TrainingOutcome:
    marker, kept = seen.marker, {item.name: item.complete for item in seen.checkpoints}
    return training_outcome(
        run.kind,
        steps_planned=None if run.batches is None else run.batches.steps,
        marked_steps=None if marker is None else marker.steps,
        last_export_whole=marker is not None and bool(marker.checkpoints) and kept.get(marker.checkpoints[-1], False),
        begun=bool(seen.metrics.attempts or seen.attempts),
        paused=seen.paused,
    )


def _curves(steps: Sequence[StepRow], nothing: Missing) -> StepCurves | Missing:
    if not steps:
        return nothing
    return StepCurves(
        steps=tuple(row.step for row in steps),
        learning_rate=tuple(row.learning_rate for row in steps),
    )


def _number(checkpoint: str) -> int:
    """Return its epoch or step; -1 for a base."""
    last = checkpoint.rpartition("_")[2]
    return int(last) if last.isdecimal() else -1


def _adapter_size(checkpoints: Sequence[CheckpointInfo], folder: Path, train: TrainConfig | None) -> Measured:
    if train is None or train.trains_all:
        return Missing(missing="not trained" if train is None else "all weights are trained")
    for item in reversed([c for c in checkpoints if c.complete and c.epoch is not None]):
        path = folder / item.name / "adapter_model.safetensors"
        if path.is_file():
            return Quantity(value=path.stat().st_size, unit="B", where=f"{item.name}/{path.name}")
    return Missing(missing="no adapter has been saved")


def _notes(seen: _Evidence, outcome: TrainingOutcome, state: JobState | None) -> tuple[Note, ...]:
    notes: list[Note] = []
    failed = [a.exit for a in seen.attempts if a.exit is not None and a.exit.code not in (0, 75)]
    silent = sum(a.exit is None and a.alive is False for a in seen.attempts)
    if failed:
        last = failed[-1]
        notes.append(Note(NoteCode.ATTEMPTS_FAILED, {"count": len(failed), "reason": last.reason, "code": last.code}))
    if silent:
        notes.append(Note(NoteCode.ATTEMPTS_KILLED, {"count": silent}))
    if outcome is TrainingOutcome.COMPLETE and state is not None and state.ended and state is not JobState.COMPLETED:
        notes.append(Note(NoteCode.FAILED_EXIT))
    if seen.metrics.unread is not None:
        notes.append(Note(NoteCode.METRICS_UNREAD, {"file": METRICS, "reason": seen.metrics.unread}))
    if seen.metrics.superseded_steps:
        notes.append(Note(NoteCode.STEPS_REPEATED, {"count": seen.metrics.superseded_steps}))
    notes += [
        Note(NoteCode.CHECKPOINT_UNUSABLE, {"name": item.name, "problems": "; ".join(item.problems)})
        for item in seen.checkpoints
        if not item.complete
    ]
    if seen.stale_evaluations:
        notes.append(Note(NoteCode.EVALUATIONS_LEFT_OUT, {"evaluations": _evaluations(seen.stale_evaluations)}))
    if seen.earlier_evaluations:
        settings = "; ".join(dict.fromkeys(record.decoding for record in seen.earlier_evaluations))
        evaluations = _evaluations(len(seen.earlier_evaluations))
        notes.append(Note(NoteCode.EVALUATIONS_KEPT, {"evaluations": evaluations, "settings": settings}))
    notes += [Note.stated(seen.metric_note)] if seen.metric_note is not None else []
    notes += [Note(NoteCode.NOT_EVALUATED, {"evaluation": each}) for each in seen.not_evaluated]
    notes += [Note.stated(seen.cluster_note)] if seen.cluster_note is not None else []
    for record in (*seen.evaluations[-1:], *seen.other_evaluations):
        errors = sum(sample.error is not None for sample in record.samples)
        if errors:
            evaluation = f"{record.checkpoint} on {record.label}"
            notes.append(Note(NoteCode.ANSWERS_NOT_SCORED, {"evaluation": evaluation, "count": errors}))
    for row in seen.metrics.attempts[-1:]:
        machine = (
            f"{row.device}, {plural(row.threads, 'thread')}, base in {row.base_dtype} ({row.base_dtype_reason}), "
            f"layout: {row.layout}"
        )
        notes.append(Note(NoteCode.TRAINED_ON, {"machine": machine}))
    return tuple(notes)


def _evaluations(number: int) -> str:
    return "1 evaluation" if number == 1 else f"{number} evaluations"


# ---- current evaluations ---------------------------------------------------------------------------------------------


def with_metric(
    records: Sequence[EvaluationRecord], config: EvaluationConfig
) -> tuple[tuple[EvaluationRecord, ...], str | None]:
    """Return the records with `evaluate.metric` as score of the experiment's own task, and a note for the reader.

    Args:
        records: evaluations that are current under `config`.
        config: planned evaluation of the run.
    """
    own = [record for record in records if record.task == config.task]
    if config.evaluate.metric is None or not own:
        return tuple(records), None
    found: list[EvaluationRecord] = []
    note = None
    for record in records:
        chosen = _chosen(record, config, config.evaluate.metric) if record.task == config.task else record
        if chosen is None:
            names = dict.fromkeys(name for sample in record.samples for name in sample.scores)
            note = (
                f"evaluate.metric: the task has no score {config.evaluate.metric!r}, expected one of "
                f"{', '.join(names) or record.score}({record.score} is shown)"
            )
        found.append(chosen or record)
    return tuple(found), note


def labels_of_record(record: EvaluationRecord) -> LabelReport | None:
    """Return the per-label report of a classification; None for another task."""
    if not record.labels:
        return None
    answers = [(canonical_label(sample.target, record.labels), sample.label) for sample in record.samples]
    return label_report(record.labels, answers)


def _chosen(record: EvaluationRecord, config: EvaluationConfig, metric: str) -> EvaluationRecord | None:
    if config.own is None:
        try:
            name, field = get_task(config.task).metric(metric)
        except InputError:
            return None
        if name == record.score:
            return record
        scored = (
            replace(sample, value=float(sample.match if field == "match" else sample.exact))
            for sample in record.samples
        )
        return replace(record, score=name, samples=tuple(scored))
    if not any(metric in sample.scores for sample in record.samples):
        return None
    samples = tuple(
        replace(
            sample,
            value=sample.scores.get(metric),
            error=sample.error
            if metric in sample.scores
            else sample.error or f"the scorer gave no number for {metric}",
        )
        for sample in record.samples
    )
    return replace(record, score=metric, samples=samples)


def with_clusters(
    records: Sequence[EvaluationRecord], config: EvaluationConfig, folder: Path
) -> tuple[tuple[EvaluationRecord, ...], str | None]:
    """Return the records with each item's cluster from `evaluate.cluster`, and a note for the reader.

    The scores file holds the clusters from the time of writing. Clusters change no score, so the column may be set,
    changed or removed later: they are read from the dataset again. If that fails, the clusters of the scores file stay
    and the note says so. Custom tasks set the clusters of their items themselves.

    Args:
        records: evaluations that are current under `config`.
        config: planned evaluation of the run.
        folder: run folder; the dataset path is relative to it.
    """
    column = config.evaluate.cluster
    found: dict[str, EvaluationRecord] = {}
    notes: dict[str, None] = {}
    for task in (None, *config.tasks):
        asked = config.resolved(task)
        own = [record for record in records if record.label == config.label_of(task)]
        # A task in a file sets the clusters of its items, unless they are the dataset's.
        if not own or (asked.is_file and (column is None or not config.asks_as_trained(task))):
            continue
        clusters: Mapping[str, str | None] = {}
        if column is not None:
            here = config.on(task)
            try:
                clusters = load_clusters(here.data, folder, column, here.data_sha256)
            except TouchlineError as fault:
                known = any(sample.cluster is not None for record in own for sample in record.samples)
                left = "clusters are from the evaluation" if known else "items are treated as independent"
                notes[f"evaluate.cluster: {column} could not be read ({fault.message}), so {left}"] = None
                continue
        found |= {record.log: _with(record, clusters) for record in own}
    note = "; ".join(notes) if notes else None
    return tuple(found.get(record.log, record) for record in records), note


def _with(record: EvaluationRecord, clusters: Mapping[str, str | None]) -> EvaluationRecord:
    if all(sample.cluster == clusters.get(sample.id) for sample in record.samples):
        return record
    return replace(record, samples=tuple(replace(sample, cluster=clusters.get(sample.id)) for sample in record.samples))
