"""Readings of a run's logs: measurements, loss curves, job end and its evidence lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.core.observation import SignKind
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState
from touchline.history.fields import reading_of
from touchline.history.file_segment import FileSegment
from touchline.history.files import shows_training
from touchline.history.lines import NotTextError
from touchline.history.reading import Outcome, RunReading, SourcedText, exit_code
from touchline.history.run_view import RunSegment, RunView, align, runs_of
from touchline.history.scan import Scan
from touchline.results.imported.documents import Curve, Curves, JobEndSign, SideFile
from touchline.results.imported.folders import job_id

_STATES = {
    Outcome.TIMEOUT: JobState.TIMEOUT,
    Outcome.CANCELLED: JobState.CANCELLED,
    Outcome.PREEMPTED: JobState.PREEMPTED,
    Outcome.HOST_OOM: JobState.OUT_OF_MEMORY,
}
_FATAL = frozenset(SignKind) - {
    *(SignKind.START, SignKind.RESUMED, SignKind.TRAINED, SignKind.EVALUATING, SignKind.SAVING, SignKind.SAVED),
    *(SignKind.EXPORTING, SignKind.DONE),
}
_LAST_LINES = 5
"""A failed command within this many last lines counts as the script's last command."""
_OVER = (Outcome.COMPLETED, Outcome.CRASH_EVAL, Outcome.CRASH_EXPORT)
"""Outcomes that follow a complete training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLog:
    """Parsed output of one job."""

    path: Path
    """The file."""
    job: str | None
    """Job id from the file name."""
    reading: RunReading
    """Measurements of the training."""
    signs: tuple[JobEndSign, ...]
    """Signs of its course, in order."""
    curves: Curves
    """Losses."""
    started_unix: float | None
    """First timestamp, read as UTC."""
    ended_unix: float | None
    """Last timestamp."""
    lines: int
    """Number of lines."""

    @property
    def has_step(self) -> bool:
        """Return True if it shows a training step."""
        known = self.reading.steps_done
        return (isinstance(known, Quantity) and known.value > 0) or bool(self.curves.train)

    @property
    def is_training(self) -> bool:
        """Return True if it is the log of a training."""
        return (
            self.has_step
            or isinstance(self.reading.trainer, SourcedText)
            or isinstance(self.reading.steps_total, Quantity)
        )

    @property
    def is_complete(self) -> bool:
        """Return True if it shows a complete training."""
        done, total = self.reading.steps_done, self.reading.steps_total
        if isinstance(done, Quantity) and isinstance(total, Quantity) and total.value > 0:
            return done.value >= total.value
        return self.reading.outcome.value in _OVER

    @property
    def failed_commands(self) -> tuple[JobEndSign, ...]:
        """Failed commands of the job script."""
        return tuple(sign for sign in self.signs if sign.kind is SignKind.FAILED_COMMAND)

    @property
    def _went_on(self) -> bool:
        """Return True if the script continued after the failed command; its exit code is then another command's."""
        fatal = [sign for sign in self.signs if sign.kind in _FATAL]
        return (
            bool(fatal)
            and {sign.kind for sign in fatal} == {SignKind.FAILED_COMMAND}
            and (self.lines - fatal[-1].line >= _LAST_LINES)
        )

    @property
    def state(self) -> JobState | None:
        """Job state inferred from the lines; None if unknown."""
        ending = self.reading.exit
        if not isinstance(ending, Missing) and exit_code(ending) is None and self._went_on:
            return None
        state = _STATES.get(Outcome(self.reading.outcome.value))
        if state is not None:
            return state
        if isinstance(ending, Missing):
            return None
        return JobState.COMPLETED if exit_code(ending) == 0 else JobState.FAILED


def read_job(log: Path | None, beside: Sequence[SideFile]) -> JobLog | None:
    """Read one job's output with the files beside it, or the files alone.

    Args:
        log: output; None if only a trainer state describes the training.
        beside: state files, configs and scripts of its run.

    Returns:
        The last training in it; None if it has none.

    Raises:
        NotTextError: it is binary, or empty.
        OSError: it cannot be read.
    """
    notes: list[str] = []
    curve, lines = (None, 0) if log is None else _scan(log, notes)
    logs = [] if curve is None else [_parts(curve)]
    documents = [_parts(each.curve) for each in beside]
    if not any(part.has_progress or part.seen for parts in logs for part in parts):
        trainings = [parts for parts in documents if shows_training(parts)]
        logs, documents = [*logs, *trainings], [parts for parts in documents if parts not in trainings]
    runs = [run for run in runs_of(align([parts for parts in logs if parts])) if any(_is_run(each) for each in run)]
    if not runs:
        return None
    own = log if log is not None else next(each.path for each in beside if shows_training(_parts(each.curve)))
    side = RunSegment(parts=tuple(part for parts in documents for part in parts))
    files = tuple(path.name for path in (*(() if log is None else (log,)), *(each.path for each in beside)))
    reading = reading_of(own.name, files, RunView(segments=tuple(runs[-1]), documents=side), notes)
    stamps = [part.stamps for part in (curve.parts if curve is not None else ()) if part.stamps is not None]
    curves = [each for each in (curve, *(each.curve for each in beside)) if each is not None]
    with_losses = next((each for each in curves if each.train), curves[0])
    return JobLog(
        path=own,
        job=job_id(own),
        reading=reading,
        signs=tuple(curves[0].signs),
        curves=with_losses.curves,
        started_unix=stamps[0][0].unix if stamps else None,
        ended_unix=stamps[-1][1].unix if stamps else None,
        lines=lines,
    )


def _parts(curve: Curve) -> list[FileSegment]:
    return [part for part in curve.parts if part.has_evidence]


def _scan(path: Path, notes: list[str]) -> tuple[Curve, int]:
    if path.stat().st_size == 0:
        raise NotTextError("an empty file")
    scan, curve = Scan(path, path.name), Curve(path.name)
    scan.segmenter = curve
    scan.run()
    notes += scan.file.notes
    if scan.file.cut_lines:
        notes.append(f"{scan.file.cut_lines} lines over 1 MiB, of which only head and tail were read")
    if scan.file.unterminated:
        notes.append("the last line has no end and was read as far as it is whole")
    return curve, scan.file.last_number


def _is_run(segment: RunSegment) -> bool:
    """Return True if a segment describes a run."""
    progressed = any(part.has_progress or part.signs.count or len(part.seen) > 1 for part in segment.parts)
    return progressed or (bool(segment.all("trainer")) and bool(segment.training_tracks(None)))
