"""Segment of one file: what its events show of one attempt, in bounded memory.

Of each kind of observation the first and the last are kept, of losses number and sum.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from touchline.core.observation import Observation, ObservationName, ProgressBarEvent, Sign, SignKind, Stamp

_NUMBERS = re.compile(r"\d[\d.,:e+-]*")
_OTHER_WORK = re.compile(
    r"eval|valid|test|map|token|load|fetch|pack|generat|filter|shard|process|convert|sav|drop|add|exampl|file|weight"
    r"|predict|infer|comput|format|creat|group|quant|merg|push|split|read|build|prepar|hash|cop|extract|chunk|import"
    r"|param|request|prompt|resolv|cach|collat|sort|truncat|pass|quer|sampl|writ|caption|embed|calib|materiali|calculat",
    re.IGNORECASE,
)
_TRAINING = re.compile(r"train|epoch|step|iter|loss|\bsft\b|\bdpo\b|fine-?tun", re.IGNORECASE)
POINTS = 1024
"""More points of one bar are thinned to every second one, again and again."""
WINDOWS = 24
"""Windows of steps over which the median is taken."""
SKIP_FACTOR = 20
"""A window that is so many times faster than the median of the rest passes over batches and computes none."""


def label_key(label: str) -> str:
    """Return what stays the same in a label from step to step."""
    return _NUMBERS.sub("#", label)


def is_training_label(label: str) -> bool | None:
    """Return True if a bar counts training, other work (False), or does not say (None)."""
    words = _NUMBERS.sub(" ", label)
    if _OTHER_WORK.search(words):
        return False  # "Tokenizing train dataset" is no training
    if _TRAINING.search(words):
        return True
    return None if not words.strip(" |:#-[]()/") else False


@dataclass(slots=True)
class Track:
    """Bar from its first drawing to its last, or rows with step and elapsed time."""

    label: str
    """Label as first drawn."""
    total: int | None
    points: list[tuple[int, float, int]] = field(default_factory=list)
    """Done, elapsed seconds, line; thinned."""
    first: tuple[int, float, int] = (0, 0.0, 0)
    last: tuple[int, float, int] = (0, 0.0, 0)
    count: int = 0
    stride: int = 1
    """Every so many of them are kept."""
    is_evaluation: bool = False
    """Whether it began after the words that begin an evaluation or a prediction."""

    def add(self, done: int, elapsed: float, line: int) -> None:
        """Take another point."""
        point = (done, elapsed, line)
        if self.count == 0:
            self.first = point
        self.last = point
        if self.count % self.stride == 0:
            self.points.append(point)
            if len(self.points) >= 2 * POINTS:
                self.points = self.points[::2]
                self.stride *= 2
        self.count += 1

    @property
    def complete(self) -> bool:
        """Return True if it reached its total."""
        return self.total is not None and self.last[0] >= self.total

    def seconds_per_step(self, *, pauses: bool = False) -> tuple[float, float, float, int] | None:
        """Return median, lower and upper quartile of the time of a step in seconds, and the number of windows.

        With `pauses` between steps every window counts alike, so that those without one decide; else a window counts as
        often as it has steps, so that a file that was cut in its middle is judged by all of its steps.

        The first tenth of the steps, at most ten and at least one, is warm-up. None where fewer than two steps or less
        than two seconds are left: a bar's clock shows whole seconds.
        """
        points = _rising([*self.points, self.last])
        if len(points) < 3:
            return None
        warm = _end_of_warm_up(points[0][0], points[-1][0])
        points = [point for point in points if point[0] >= warm]
        if len(points) < 2 or points[-1][1] - points[0][1] < 2 or points[-1][0] - points[0][0] < 2:
            return None
        rates = _window_rates(points)
        if pauses:
            rates = [(rate, 1) for rate, _ in rates]
        usual = _at_share(rates, 0.5)
        rates = [each for each in rates if each[0] * SKIP_FACTOR >= usual]
        return _at_share(rates, 0.5), _at_share(rates, 0.25), _at_share(rates, 0.75), len(rates)

    def mean_seconds_per_step(self) -> tuple[float, int, int] | None:
        """Return time over steps from after warm-up, or after skipped batches, to the last point.

        Returns:
            Seconds per step, and the first and the last step; None if a bar's clock does not show them.
        """
        points = _rising([*self.points, self.last])
        if len(points) < 2:
            return None
        begin = self.skipped_until() or points[0][0]
        warm = _end_of_warm_up(begin, points[-1][0])
        points = [point for point in points if point[0] >= warm]
        if len(points) < 2 or points[-1][1] - points[0][1] < 2:
            return None
        (first, start, _), (last, end, _) = points[0], points[-1]
        return (end - start) / (last - first), first, last

    def skipped_until(self) -> int | None:
        """Return the step up to which batches were skipped after a resume; None if none were."""
        points = _rising([*self.points, self.last])
        rate = self.seconds_per_step()
        if rate is None or rate[0] <= 0:
            return None
        usual, window = rate[0], max(10.0, 3 * rate[0])
        end = 0
        for index, (done, elapsed, _) in enumerate(points):
            while end < len(points) - 1 and points[end][1] - elapsed < window:
                end += 1
            if end > index and (points[end][1] - elapsed) / (points[end][0] - done) >= usual / 2:
                return done if index > 0 and (elapsed - points[0][1]) * SKIP_FACTOR < usual * done else None
        return None


def _rising(points: list[tuple[int, float, int]]) -> list[tuple[int, float, int]]:
    """Return the points with more steps and no less time than those before; the first of each step."""
    rising: list[tuple[int, float, int]] = []
    for point in points:
        if not rising or (point[0] > rising[-1][0] and point[1] >= rising[-1][1]):
            rising.append(point)
    return rising


def _window_rates(points: list[tuple[int, float, int]]) -> list[tuple[float, int]]:
    """Return seconds per step, and steps, of up to WINDOWS windows, none shorter than the clock's resolution."""
    span_seconds = points[-1][1] - points[0][1]
    count = max(1, min(WINDOWS, len(points) - 1, int(span_seconds // 10)))
    edges = [points[round(index * (len(points) - 1) / count)] for index in range(count + 1)]
    return [
        ((after[1] - before[1]) / (after[0] - before[0]), after[0] - before[0])
        for before, after in itertools.pairwise(edges)
        if after[0] > before[0]
    ]


def _at_share(rates: list[tuple[float, int]], share: float) -> float:
    """Return the rate below which so many of the steps are; a window counts as often as it has steps."""
    ordered = sorted(rates)
    wanted = share * sum(steps for _, steps in ordered)
    counted = 0
    for rate, steps in ordered:
        counted += steps
        if counted >= wanted:
            return rate
    return ordered[-1][0]


def _end_of_warm_up(first: int, last: int) -> int:
    """Return the step after which a bar's speed counts: a tenth of the steps in, at least one and at most ten."""
    return first + max(1, min(10, (last - first) // 10))


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
