"""Results of every run from its folder; a value that was not measured is missing with a reason."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.errors import InputError, TouchlineError
from touchline.core.finding import Note, NoteCode
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import KILLED, Attempt, JobState, TrainingOutcome
from touchline.core.units import plural
from touchline.data.checkpoints import paused_step, read_checkpoints, read_training_marker
from touchline.data.datasets import load_clusters
from touchline.data.evaluations import current_evaluation, is_earlier, read_evaluations, scores_path
from touchline.data.metrics import Metrics, StepRow
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.data.scores import CheckpointInfo, EvaluationRecord
from touchline.experiment.evaluation import EvaluationConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.experiment.tasks.classification import canonical_label
from touchline.experiment.tasks.ready_made import get_task
from touchline.experiment.training import TrainConfig
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


def collect_results(plan: Plan, root: Path, views: Mapping[str, JobView] | None = None) -> list[RunResult]:
    """Return the results of every run of the plan, in its order.

    Args:
        views: job views by name, if the scheduler was queried; otherwise only the folders are read.
    """
    seen = views or {}
    cut = cut_runs(plan, root)
    return compared([_result(plan, run, root / run.name, seen.get(run.name), cut.get(run.name)) for run in plan.runs])


def _result(plan: Plan, run: PlannedRun, folder: Path, view: JobView | None, cut_after_step: int | None) -> RunResult:
    trained = run.kind is RunKind.FINE_TUNED
    checkpoints = read_checkpoints(folder)
    attempts = drop_lock_conflicts(read_attempts(folder / "status"))
    metrics = read_metrics(folder / METRICS)
    log = None if metrics.steps or run.train is None else _logged(folder)
    outcome = _outcome(run, folder, checkpoints, begun=bool(metrics.attempts or attempts))
    job = view if view is not None else job_view_from_files(attempts, time.time())
    state = None if job is None else job.state

    config = evaluation_config(plan, run)
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
    done = {(record.label, record.checkpoint) for record in current}
    own_label = config.label_of(None)
    sets = [task.label for task in config.tasks if task.test_set is not None]
    evaluated = any(all((task, name) in done for task in sets) for label, name in done if label == own_label)
    wanted = {(task.label, name) for task in config.tasks for label, name in done if label == own_label}
    own = tuple(record for record in clustered if record.label == own_label)
    others = tuple(record for record in clustered if record.label != own_label)
    last = own[-1] if own else None
    ready = last if config.own is None else None

    status = run_status(
        StatusInputs(
            kind=run.kind,
            prepared=(folder / ("finetune.yaml" if trained else "eval.yaml")).exists(),
            outcome=outcome,
            evaluated=evaluated,
            job=job,
            cut=cut_after_step is not None,
        )
    )
    unread = f"{METRICS} cannot be read" if metrics.unread is not None else "no step has been measured"
    nothing = Missing(missing=unread if trained else "not trained")
    attempt_list = _attempt_results(folder, attempts) if trained else ()
    started, completed = started_and_completed(attempts, status)
    notes = [
        *_training_notes(attempts, metrics, checkpoints, complete=outcome is TrainingOutcome.COMPLETE, state=state),
        *_left_out(len(records) - len(current) - len(earlier), earlier),
        *([Note.stated(metric_note)] if metric_note is not None else []),
        *(Note(NoteCode.NOT_EVALUATED, {"evaluation": f"{name} on {task}"}) for task, name in sorted(wanted - done)),
        *([Note.stated(cluster_note)] if cluster_note is not None else []),
        *_not_scored((*own[-1:], *others)),
        *_trained_on(metrics),
    ]
    return RunResult(
        **own_fields(figures_of_log(log) if log is not None else figures_of_metrics(run, metrics, nothing)),
        name=run.name,
        kind=run.kind,
        model=run.model,
        levels=run.levels,
        seed=run.seed,
        status=status,
        job_state=state,
        outcome=outcome,
        attempts=len(attempt_list),
        attempt_list=attempt_list,
        job_id=attempts[-1].start.job_id if attempts else None,
        started=started,
        completed=completed,
        dataset=run.dataset,
        settings=static_config(run),
        steps_done=(metrics.steps[-1].step if metrics.steps else 0) if trained else None,
        steps_planned=run.batches.steps if run.batches is not None else None,
        exact_match=None if ready is None else proportion(ready, [sample.exact for sample in ready.samples]),
        match=None if ready is None else proportion(ready, [sample.match for sample in ready.samples]),
        difference=None,
        evaluate_seconds=Quantity(value=last.seconds, unit="s", aggregation="sum", where=scores_path(last))
        if last is not None
        else NOT_EVALUATED,
        sampled=resource_figures(read_resources(folder / "status")),
        adapter_size=_adapter_size(checkpoints, folder, run.train),
        checkpoints=checkpoints,
        train_losses=tuple(LossPoint(step=row.step, loss=row.loss) for row in metrics.steps),
        curves=_curves(metrics.steps, nothing),
        validation_losses=tuple(LossPoint(step=row.step, loss=row.loss) for row in metrics.validations),
        evaluations=own,
        other_evaluations=others,
        earlier_evaluations=tuple(earlier),
        metric=None if last is None else last.score,
        set_scores={} if config.first_set is None else dict.fromkeys(config.data.test_sets, NOT_EVALUATED),
        labels=None if last is None else labels_of_record(last),
        control=run.control,
        phase=run.phase,
        cut_after_step=cut_after_step,
        notes=tuple(notes),
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
    """Return every attempt at a run's training that reached its own process, oldest first."""
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


def _outcome(run: PlannedRun, folder: Path, checkpoints: Sequence[CheckpointInfo], *, begun: bool) -> TrainingOutcome:
    marker, kept = read_training_marker(folder), {item.name: item.complete for item in checkpoints}
    if marker is not None and marker.run_digest != run.digest:
        marker = None
    return training_outcome(
        run.kind,
        steps_planned=None if run.batches is None else run.batches.steps,
        marked_steps=None if marker is None else marker.steps,
        last_export_whole=marker is not None and bool(marker.checkpoints) and kept.get(marker.checkpoints[-1], False),
        begun=begun,
        paused=paused_step(folder, run.digest) is not None,
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


def _training_notes(
    attempts: Sequence[Attempt],
    metrics: Metrics,
    checkpoints: Sequence[CheckpointInfo],
    *,
    complete: bool,
    state: JobState | None,
) -> Iterator[Note]:
    failed = [a.exit for a in attempts if a.exit is not None and a.exit.code not in (0, 75)]
    silent = sum(a.exit is None and a.alive is False for a in attempts)
    if failed:
        last = failed[-1]
        yield Note(NoteCode.ATTEMPTS_FAILED, {"count": len(failed), "reason": last.reason, "code": last.code})
    if silent:
        yield Note(NoteCode.ATTEMPTS_KILLED, {"count": silent})
    if complete and state is not None and state.ended and state is not JobState.COMPLETED:
        yield Note(NoteCode.FAILED_EXIT)
    if metrics.unread is not None:
        yield Note(NoteCode.METRICS_UNREAD, {"file": METRICS, "reason": metrics.unread})
    if metrics.superseded_steps:
        yield Note(NoteCode.STEPS_REPEATED, {"count": metrics.superseded_steps})
    for item in checkpoints:
        if not item.complete:
            yield Note(NoteCode.CHECKPOINT_UNUSABLE, {"name": item.name, "problems": "; ".join(item.problems)})


def _left_out(stale: int, earlier: Sequence[EvaluationRecord]) -> Iterator[Note]:
    if stale:
        yield Note(NoteCode.EVALUATIONS_LEFT_OUT, {"evaluations": _evaluations(stale)})
    if earlier:
        settings = "; ".join(dict.fromkeys(record.decoding for record in earlier))
        yield Note(NoteCode.EVALUATIONS_KEPT, {"evaluations": _evaluations(len(earlier)), "settings": settings})


def _not_scored(records: Sequence[EvaluationRecord]) -> Iterator[Note]:
    for record in records:
        errors = sum(sample.error is not None for sample in record.samples)
        if errors:
            evaluation = f"{record.checkpoint} on {record.label}"
            yield Note(NoteCode.ANSWERS_NOT_SCORED, {"evaluation": evaluation, "count": errors})


def _trained_on(metrics: Metrics) -> Iterator[Note]:
    for row in metrics.attempts[-1:]:
        threads, base = plural(row.threads, "thread"), f"base in {row.base_dtype} ({row.base_dtype_reason})"
        yield Note(NoteCode.TRAINED_ON, {"machine": f"{row.device}, {threads}, {base}, layout: {row.layout}"})


def _evaluations(number: int) -> str:
    return "1 evaluation" if number == 1 else f"{number} evaluations"


# ---- current evaluations ---------------------------------------------------------------------------------------------


def with_metric(
    records: Sequence[EvaluationRecord], config: EvaluationConfig
) -> tuple[tuple[EvaluationRecord, ...], str | None]:
    """Return the records with `evaluate.metric` as score of the experiment's own task, and a note for the reader."""
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
