"""Progress over time: how many steps were done at which second, and how long a step takes.

A bar's own rate is smoothed, counts skipped batches after a resume, and holds evaluations and savings. Here a rate is
the median over equal windows of steps after warm-up, so that a pause falls into a few windows and leaves the others.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

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
