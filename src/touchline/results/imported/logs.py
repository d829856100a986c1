"""Readings of a run's logs and of the files next to them: measurements, loss curves, job end and its evidence lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, Outcome
from touchline.history.fields import reading_of
from touchline.history.file_segment import FileSegment, SegmentStart
from touchline.history.files import read_document, refusal, runs_in, scan_log, shows_training
from touchline.history.reading import SourcedText, exit_code
from touchline.history.record import RunRecord
from touchline.history.run_view import RunView
from touchline.history.scan import NotTextError
from touchline.history.segments import FileSegmenter
from touchline.results.imported.folders import CHECKPOINT, clean_line, job_id
from touchline.results.run_result import LossPoint

_MOST_POINTS = 20_000
_MOST_SIGNS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Losses by step."""

    train: tuple[LossPoint, ...]
    validation: tuple[LossPoint, ...]


class Curve(FileSegmenter):
    """Event collector that also keeps thinned losses."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.train: dict[int, float] = {}
        self.validation: dict[int, float] = {}
        self.signs: list[Sign] = []
        self._last_step = 0
        self._one_in = 1
        self._losses_seen = 0

    def feed(self, event: Event) -> None:
        """Process the next event."""
        parts = len(self.parts)
        super().feed(event)
        if len(self.parts) > parts and self.part.began is not SegmentStart.RESUMED:
            # Another attempt from the beginning: what came before is not its curve.
            self.train.clear()
            self.validation.clear()
        if isinstance(event, Sign):
            self.signs.append(replace(event, text=clean_line(event.text)))
            del self.signs[:-_MOST_SIGNS]
        elif isinstance(event, Observation) and not isinstance(event.value, str):
            self._point(event)

    def _point(self, seen: Observation) -> None:
        if isinstance(seen.value, str) or seen.aggregation == "last":
            return
        if seen.name == "loss" and seen.step is not None:
            self._last_step = seen.step
            self._add_loss(seen.step, seen.value)
        elif seen.name == "eval_loss":
            step = seen.step if seen.step is not None else self._last_step
            self.validation[step] = seen.value
            if len(self.validation) > _MOST_POINTS:
                self.validation = dict(sorted(self.validation.items())[::2])

    def _add_loss(self, step: int, loss: float) -> None:
        self._losses_seen += 1
        if self._losses_seen % self._one_in:
            return
        self.train[step] = loss
        if len(self.train) > _MOST_POINTS:
            self.train = dict(sorted(self.train.items())[::2])
            self._one_in *= 2

    @property
    def curves(self) -> Curves:
        """Losses in step order."""
        return Curves(train=_points(self.train), validation=_points(self.validation))


def _points(losses: dict[int, float]) -> tuple[LossPoint, ...]:
    return tuple(LossPoint(step=step, loss=loss) for step, loss in sorted(losses.items()))


_STATE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SideFile:
    """File next to the logs."""

    path: Path
    data: dict[str, object]
    """Parsed content; empty for a script."""
    curve: Curve


def read_documents(paths: Sequence[Path]) -> tuple[list[SideFile], list[tuple[Path, str]]]:
    """Read side files; return those read, and (path, reason) of the others. Only the newest trainer state is read."""
    states = [path for path in paths if path.name == _STATE]
    own = [path for path in states if CHECKPOINT.fullmatch(path.parent.name) is None]
    kept = set((own or states)[-1:])
    found: list[SideFile] = []
    problems: list[tuple[Path, str]] = []
    for path in paths:
        if path.name == _STATE and path not in kept:
            continue
        curve = Curve(path.name)
        try:
            found.append(SideFile(path=path, data=read_document(path, curve), curve=curve))
        except (InputError, OSError) as fault:
            problems.append((path, refusal(fault)[:300]))
    return found, problems


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
    job: str | None
    """Job id from the file name."""
    reading: RunRecord
    signs: tuple[Sign, ...]
    curves: Curves
    started_unix: float | None
    """First timestamp, read as UTC."""
    ended_unix: float | None
    lines: int

    @property
    def has_step(self) -> bool:
        """Return True if it shows a training step."""
        known = self.reading.course.steps_done
        return (isinstance(known, Quantity) and known.value > 0) or bool(self.curves.train)

    @property
    def is_training(self) -> bool:
        """Return True if it is the log of a training."""
        return (
            self.has_step
            or isinstance(self.reading.stack.trainer, SourcedText)
            or isinstance(self.reading.course.steps_total, Quantity)
        )

    @property
    def is_complete(self) -> bool:
        """Return True if it shows a complete training."""
        done, total = self.reading.course.steps_done, self.reading.course.steps_total
        if isinstance(done, Quantity) and isinstance(total, Quantity) and total.value > 0:
            return done.value >= total.value
        return self.reading.course.outcome.value in _OVER

    @property
    def failed_commands(self) -> tuple[Sign, ...]:
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
        ending = self.reading.course.exit
        if not isinstance(ending, Missing) and exit_code(ending) is None and self._went_on:
            return None
        state = _STATES.get(Outcome(self.reading.course.outcome.value))
        if state is not None:
            return state
        if isinstance(ending, Missing):
            return None
        return JobState.COMPLETED if exit_code(ending) == 0 else JobState.FAILED


def read_job(log: Path | None, beside: Sequence[SideFile]) -> JobLog | None:
    """Read one job's output with the files next to it, or the files alone.

    Args:
        log: output; None if only a trainer state describes the training.

    Returns:
        The last training in it; None if it has none.

    Raises:
        NotTextError: it is binary, or empty.
        OSError: it cannot be read.
    """
    notes: list[str] = []
    curve, lines = (None, 0) if log is None else _scan(log, notes)
    logs = [parts] if curve is not None and (parts := _parts(curve)) else []
    runs, side = runs_in(logs, [_parts(each.curve) for each in beside])
    if not runs:
        return None
    own = log if log is not None else next(each.path for each in beside if shows_training(_parts(each.curve)))
    reading = reading_of(own.name, RunView(segments=tuple(runs[-1]), documents=side), notes)
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
    curve = Curve(path.name)
    file, found = scan_log(path, curve)
    notes += found
    return curve, file.last_number
