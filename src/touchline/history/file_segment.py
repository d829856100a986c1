"""Segment of one file: what its events show of one attempt, in bounded memory.

Of each kind of observation the first and the last are kept, of losses number and sum.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from touchline.core.observation import Observation, ObservationName, ProgressBarEvent, Sign, SignKind, Stamp
from touchline.history.tracks import Track

KEPT = 200
"""Number of first and of last observations of each name, and of signs, that are kept."""
BUFFERED_ROWS = 64
"""Rows that a program may hold back on standard output and print only after its traceback."""
T = TypeVar("T")


class SegmentStart(StrEnum):
    """Beginning of a segment."""

    FRESH = "fresh"
    """The first training of a file."""
    RESUMED = "resumed"
    """The same run, from a saved state."""
    RESTARTED = "restarted"
    """The same run, from its beginning."""
    ANOTHER_RUN = "another run"
    """Another run in the same file."""


class HeadTailBuffer(Generic[T]):
    """Buffer of the first and the last values of many."""

    __slots__ = ("_first", "_last", "count")

    def __init__(self) -> None:
        """Start empty."""
        self._first: list[T] = []
        self._last: deque[T] = deque(maxlen=KEPT)
        self.count = 0

    def add(self, value: T) -> None:
        """Add a value."""
        self.count += 1
        if self.count <= KEPT:
            self._first.append(value)
        else:
            self._last.append(value)

    def all(self) -> list[T]:
        """Return those that were kept, in order."""
        return [*self._first, *self._last]


@dataclass(slots=True)
class Losses:
    """Training losses as they were logged."""

    count: int = 0
    """Rows with a finite loss."""
    total: float = 0.0
    last: Observation | None = None
    first: Observation | None = None
    second: Observation | None = None
    """Second loss; with the first it shows the logging interval."""

    def add(self, loss: Observation) -> None:
        """Add a row."""
        if isinstance(loss.value, str) or (self.last is not None and self.last.certain and not loss.certain):
            return
        if self._is_mean_of_rows(loss):
            return
        if self.last is not None and loss.certain and not self.last.certain:
            # A trainer's own rows count more than what a script prints beside them.
            self.count, self.total, self.first, self.second = 0, 0.0, None, None
        self.count += 1
        self.total += loss.value
        self.last = loss
        if self.first is None:
            self.first = loss
        elif self.second is None:
            self.second = loss

    def _is_mean_of_rows(self, loss: Observation) -> bool:
        """Return True if a loss is the mean of an epoch whose own rows were logged: the last of these counts."""
        last = self.last
        if last is None or loss.aggregation != "mean" or last.aggregation == "mean":
            return False
        return loss.step is None and loss.epoch is not None and (last.epoch or 0.0) > loss.epoch - 1 + 1e-9


@dataclass(slots=True)
class FileSegment:
    """Segment of one file."""

    file: str
    began: SegmentStart = SegmentStart.FRESH
    first_line: int = 0
    last_line: int = 0
    progress_line: int = 0
    """The last line that shows a training step."""
    seen: dict[ObservationName, HeadTailBuffer[Observation]] = field(default_factory=dict)
    """Observations by name, losses among them."""
    losses: Losses = field(default_factory=Losses)
    tracks: list[Track] = field(default_factory=list)
    open_tracks: dict[tuple[str, int | None], Track] = field(default_factory=dict)
    """The one of each label and total that was drawn last."""
    clock: Track = field(default_factory=lambda: Track(label="rows", total=None))
    """Steps against time, from rows that have both a step and an elapsed time or time stamp."""
    signs: HeadTailBuffer[Sign] = field(default_factory=HeadTailBuffer)
    kinds: set[SignKind] = field(default_factory=set)
    stamps: tuple[Stamp, Stamp] | None = None
    """The first and the last time on its lines."""
    nan_step: int | None = None
    trained_line: int = 0
    """Line of the end of the training; 0 for none."""
    advance_line: int = 0
    """The last line on which a bar that may count training steps advanced; 0 for none."""
    row_lines: deque[int] = field(default_factory=lambda: deque(maxlen=BUFFERED_ROWS))
    """Lines of the last rows with a loss."""
    fault_line: int = 0
    """Line of the last fault that something may have caught; 0 for none."""
    ended_line: int = 0
    """Line on which the scheduler ended the job; 0 for none."""
    ended_by: str = ""
    at_epoch: float = 0.0
    """Epochs done at its last row with a loss."""
    at_step: int = 0
    at: float = 0.0
    """Place of that row: its step, else its epoch."""
    interval: float = 0.0
    """Distance of the last two rows."""
    rows: dict[tuple[int | None, float | None], float | str] = field(default_factory=dict)
    """Losses by the step and epoch of their rows."""
    exited_line: int = 0
    """Line on which a complete training's job ended with exit code 0; 0 for none."""

    @property
    def has_progress(self) -> bool:
        """Return True if anything of it shows a training step."""
        return self.progress_line > 0

    @property
    def has_evidence(self) -> bool:
        """Return True if it says anything of a training at all."""
        return bool(self.seen or self.kinds) or self.has_progress

    def continues_after(self, sign: Sign) -> bool:
        """Return True if the training continued after a sign.

        A program that ends by an exception prints what standard output still held after the traceback: those rows are
        older than it. Only a bar that advances, or more rows than a buffer holds, show that the training survived it.
        """
        if sign.line >= self.progress_line:
            return False
        if not sign.is_uncaught:
            return True
        if self.advance_line:
            return self.advance_line > sign.line
        return len(self.row_lines) == BUFFERED_ROWS and self.row_lines[0] > sign.line

    def is_evaluating(self, bar: ProgressBarEvent) -> bool:
        """Return True if a bar without a label begins after the words that begin an evaluation."""
        signs = self.signs.all()
        last = signs[-1] if signs else None
        return last is not None and last.kind is SignKind.EVALUATING and last.line > self.progress_line

    def was_evaluating(self, sign: Sign) -> bool:
        """Return True if an evaluation had begun before a sign, and had no result and no training step after it."""
        before = [each for each in self.signs.all() if each.line < sign.line]
        ended = max((each.line for each in self.get("eval_loss")), default=0)
        return (
            bool(before) and before[-1].kind is SignKind.EVALUATING and before[-1].line > max(self.progress_line, ended)
        )

    def get(self, name: ObservationName) -> list[Observation]:
        """Return the kept observations of a name."""
        kept = self.seen.get(name)
        return kept.all() if kept is not None else []
