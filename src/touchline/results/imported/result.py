"""Imported runs as RunResult, with unknown values missing."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.finding import Note
from touchline.core.levels import Level
from touchline.core.quantity import Measured, Missing, Quantity, number_of
from touchline.core.status import JobState, Outcome, RunStatus, TrainingOutcome
from touchline.data.scores import CheckpointInfo, EvaluationRecord, EvaluationScores
from touchline.experiment.runs import ControlKind, RunKind
from touchline.history.reading import exit_cause, exit_code
from touchline.results.figures import figures_of_log, no_figures, own_fields
from touchline.results.imported.folders import RunFolder, below, changed_unix, clean_line
from touchline.results.imported.logs import JobLog
from touchline.results.imported.settings import ImportedSettings
from touchline.results.report_inputs import Issue
from touchline.results.run_result import AttemptResult, RunFigures, RunResult
from touchline.results.scored import proportion
from touchline.results.verification_types import VerifiedCheckpoint
from touchline.statistics.conclusions import Proportion

UNKNOWN_MODEL = "unknown base model"
_NO_LOG = Missing(missing="no training log")
_NOTHING = Missing(missing="not trained")
_WORDS = {
    Outcome.COMPLETED: "training ended",
    Outcome.RUNNING_OR_TRUNCATED: "the log ends without a reason",
    Outcome.TIMEOUT: "stopped at the job's time limit",
    Outcome.CANCELLED: "cancelled",
    Outcome.PREEMPTED: "preempted or requeued",
    Outcome.HOST_OOM: "ran out of the machine's memory",
    Outcome.GPU_OOM: "ran out of GPU memory",
    Outcome.DISK_QUOTA: "the disk or its quota was full",
    Outcome.CRASH_START: "failed before the first step",
    Outcome.CRASH_MID: "failed during training",
    Outcome.CRASH_EVAL: "failed during an evaluation",
    Outcome.CRASH_EXPORT: "failed while exporting the model",
    Outcome.DIVERGED_NAN: "the loss is not finite",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedRun:
    """Imported data of a run."""

    folder: RunFolder
    jobs: tuple[JobLog, ...]
    """Training logs: the decisive one first, then newest first."""
    settings: ImportedSettings
    evaluations: tuple[EvaluationScores, ...]
    evaluated: str
    """Models of its evaluations, as named in their logs."""
    issues: tuple[Issue, ...]
    checkpoints: tuple[VerifiedCheckpoint, ...] = ()
    levels: tuple[Level, ...] = ()

    @property
    def job(self) -> JobLog | None:
        """Decisive training log."""
        return self.jobs[0] if self.jobs else None

    @property
    def is_control(self) -> bool:
        """Return True if it is an untrained base model."""
        return self.settings.is_control and not self.jobs and not self.checkpoints

    @property
    def outcome(self) -> TrainingOutcome:
        """Training outcome by log and checkpoints, whatever the exit code of its job."""
        if self.is_control:
            return TrainingOutcome.NOT_STARTED
        epochs, steps = (
            self.settings.values.get("epochs"),
            [checkpoint for checkpoint in self.checkpoints if checkpoint.epoch is not None],
        )
        saved_all = isinstance(epochs, int) and any(each.epoch == epochs - 1 and each.weights_sound for each in steps)
        if self.job is None:
            complete, begun = saved_all, False
        else:
            complete = self.job.is_complete and (not self.checkpoints or self.checkpoints[-1].weights_sound)
            begun = self.job.has_step
        if complete:
            return TrainingOutcome.COMPLETE
        return TrainingOutcome.PARTIAL if begun or self.checkpoints else TrainingOutcome.NOT_STARTED

    @property
    def state(self) -> JobState | None:
        """Final job state from the output."""
        return None if self.job is None else self.job.state

    @property
    def status(self) -> RunStatus:
        """Run status."""
        failed = self.state not in (None, JobState.COMPLETED)
        if self.is_control:
            return RunStatus.COMPLETED if self.evaluations else RunStatus.PREPARED
        if self.outcome is TrainingOutcome.COMPLETE:
            if failed:
                return RunStatus.COMPLETED_FAILED_EXIT
            return RunStatus.COMPLETED if self.evaluations else RunStatus.TRAINED
        if self.state is JobState.FAILED:
            return RunStatus.FAILED
        return RunStatus.INTERRUPTED if self.outcome is TrainingOutcome.PARTIAL or failed else RunStatus.PREPARED


def result_of(run: ImportedRun, task: str | None, notes: Sequence[Note]) -> RunResult:
    """Return the run's result.

    Args:
        task: task most runs were evaluated on; other evaluations are listed separately.
    """
    course = None if run.job is None else run.job.reading.course
    done, planned = (None, None) if course is None else (number_of(course.steps_done), number_of(course.steps_total))
    own = tuple(evaluation for evaluation in run.evaluations if evaluation.label == task)
    last = own[-1] if own else None
    seed = run.settings.values.get("seed")
    job = run.job
    complete = run.outcome is TrainingOutcome.COMPLETE
    return RunResult(
        **own_fields(_figures(run)),
        name=run.folder.name,
        kind=RunKind.CONTROL if run.is_control else RunKind.FINE_TUNED,
        model=run.settings.model or UNKNOWN_MODEL,
        levels=run.levels,
        seed=seed if isinstance(seed, int) else 0,
        status=run.status,
        job_state=run.state,
        outcome=run.outcome,
        attempts=len(run.jobs),
        attempt_list=tuple(attempts_of(run)),
        job_id=None if job is None else job.job,
        started=None if job is None else _iso(job.started_unix),
        completed=_iso(job.ended_unix) if job is not None and complete else None,
        dataset=run.settings.dataset or "",
        settings={"model": run.settings.model or UNKNOWN_MODEL, **run.settings.values},
        steps_done=None if done is None else round(done),
        steps_planned=None if planned is None else round(planned),
        exact_match=_share(last),
        match=_share(last),
        difference=None,
        evaluate_seconds=_evaluate_seconds(last),
        adapter_size=_adapter(run),
        checkpoints=tuple(_info(checkpoint) for checkpoint in run.checkpoints),
        train_losses=() if run.job is None else run.job.curves.train,
        validation_losses=() if run.job is None else run.job.curves.validation,
        evaluations=own,
        other_evaluations=tuple(evaluation for evaluation in run.evaluations if evaluation.label != task),
        control=ControlKind.BASE if run.is_control else None,
        notes=tuple(notes),
    )


def attempts_of(run: ImportedRun) -> list[AttemptResult]:
    """Return every started training, oldest first; a requeued job has several in one log."""
    rows: list[AttemptResult] = []
    for job in sorted(run.jobs, key=lambda each: (each is run.job, -run.jobs.index(each))):
        began = job.started_unix if job.started_unix is not None else changed_unix(job.path)
        name = job.job or job.path.name
        for number, segment in enumerate(job.reading.course.segments[:-1]):
            rows.append(
                AttemptResult(
                    job_id=name,
                    restart=number,
                    state=JobState.PREEMPTED if segment.outcome is Outcome.PREEMPTED else JobState.UNKNOWN,
                    reason=_WORDS[segment.outcome],
                    started_unix=began,
                    seconds=Missing(missing="the log has only the last attempt's"),
                    superseded=False,
                )
            )
        rows.append(
            AttemptResult(
                job_id=name,
                restart=max(len(job.reading.course.segments) - 1, 0),
                state=job.state or JobState.UNKNOWN,
                reason=reason_of(job),
                started_unix=began,
                seconds=_placed(job.reading.costs.train_seconds, job),
                superseded=False,
            )
        )
    return rows


def reason_of(job: JobLog) -> str:
    """Return the end of a job in words."""
    words = _WORDS[Outcome(job.reading.course.outcome.value)]
    if job.is_complete:
        words = _WORDS[Outcome.COMPLETED]
    ending = job.reading.course.exit
    if isinstance(ending, Missing) or (code := exit_code(ending)) == 0:
        return words
    return f"{words}, " + (clean_line(exit_cause(ending))[:160] if code is None else f"exit code {code}")


def relocated(job: JobLog, root: Path, where: str | None) -> str | None:
    """Return `slurm-1.out:12` as a path from the root."""
    if where is None:
        return None
    name, colon, line = where.partition(":")
    return below(root, job.path.parent / name) + colon + line


# ---- figures ---------------------------------------------------------------------------------------------------------


def _figures(run: ImportedRun) -> RunFigures:
    job = run.job
    if job is None:
        return no_figures(_NOTHING if run.is_control else _NO_LOG)
    return figures_of_log(job.reading, lambda value: _placed(value, job, run.folder.path))


def _placed(value: Measured, job: JobLog, base: Path | None = None) -> Measured:
    """Return the measurement with its file path relative to the run folder, as for planned runs."""
    if isinstance(value, Missing) or value.where is None:
        return value
    return replace(value, where=relocated(job, base or job.path.parent, value.where))


def _evaluate_seconds(last: EvaluationRecord | None) -> Measured:
    if last is None:
        return Missing(missing="not evaluated")
    if not last.seconds:
        return Missing(missing="not in the evaluation's log")
    return Quantity(value=last.seconds, unit="s", aggregation="sum")


def _share(record: EvaluationRecord | None) -> Proportion | None:
    """Return k of n if every answer is right or wrong and each item was asked once."""
    if record is None or record.repeats > 1 or any(sample.value is not None for sample in record.samples):
        return None
    return proportion(record, [sample.exact and sample.error is None for sample in record.samples])


def _adapter(run: ImportedRun) -> Measured:
    for checkpoint in reversed(run.checkpoints):
        files = [file for file in checkpoint.files if file.role == "adapter" and file.name.endswith(".safetensors")]
        files = files or [file for file in checkpoint.files if file.role == "adapter"]
        if checkpoint.sound and files:
            return Quantity(value=files[0].size_bytes, unit="B", where=f"{checkpoint.name}/{files[0].name}")
    return _NOTHING if run.is_control else Missing(missing="no adapter was found")


def _info(checkpoint: VerifiedCheckpoint) -> CheckpointInfo:
    return CheckpointInfo(
        name=checkpoint.name,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        complete=checkpoint.sound,
        problems=tuple(fault.message for fault in checkpoint.faults),
        size_bytes=checkpoint.size_bytes,
        adapter_sha256=None,
        validation_loss=checkpoint.validation_loss,
    )


def _iso(unix: float | None) -> str | None:
    """Format a log's time, without a zone because a log states none."""
    return (
        None if unix is None else datetime.datetime.fromtimestamp(int(unix), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    )
