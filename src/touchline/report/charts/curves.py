"""Reduction of curves with thousands of steps to the points that a figure can show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from touchline.results.run_result import LossPoint

POINTS_A_RUN = 200
"""Maximum number of points per run in one figure, raw and smoothed together."""
POINTS_IN_ALL = 24_000
"""Approximate maximum number of points in one figure; with many runs each gets fewer."""
FEWEST = 24
SMOOTH_SHARE = 0.4
"""Share of a run's points used for the smoothed line."""


def budget(runs: int) -> int:
    """Return the number of points per run, raw and smoothed together."""
    return max(FEWEST, min(POINTS_A_RUN, POINTS_IN_ALL // max(runs, 1)))


def thinned(points: Sequence[LossPoint], limit: int) -> list[LossPoint]:
    """Return the lowest and highest point of each of limit / 2 intervals, in order, so that peaks remain visible.

    An interval with a non-finite loss returns that point instead of its highest, so that the gap is visible.
    """
    if len(points) <= limit:
        return list(points)
    stretches = max(1, limit // 2)
    kept: list[LossPoint] = []
    for index in range(stretches):
        stretch = points[index * len(points) // stretches : (index + 1) * len(points) // stretches]
        kept += _two(stretch)
    return kept


def _two(stretch: Sequence[LossPoint]) -> list[LossPoint]:
    finite = [point for point in stretch if math.isfinite(point.loss)]
    broken = next((point for point in stretch if not math.isfinite(point.loss)), None)
    if not finite:
        return [stretch[0]] if stretch else []
    low, high = min(finite, key=_loss), max(finite, key=_loss)
    two = {low.step: low, (broken or high).step: broken or high}
    return [two[step] for step in sorted(two)]


def _loss(point: LossPoint) -> float:
    return point.loss


def smoothed(points: Sequence[LossPoint], limit: int) -> list[LossPoint]:
    """Return moving averages at `limit` positions, both ends included. The window is a twentieth of the curve."""
    finite = [point for point in points if math.isfinite(point.loss)]
    if len(finite) < 3 or limit < 2:
        return finite
    half = max(1, len(finite) // 40)
    sums = [0.0]
    for point in finite:
        sums.append(sums[-1] + point.loss)
    count = min(limit, len(finite))
    places = sorted({round(index * (len(finite) - 1) / (count - 1)) for index in range(count)})
    made: list[LossPoint] = []
    for place in places:
        # A narrower window at the start keeps the fast initial decrease of the loss.
        low = place - min(half, place)
        high = min(place + min(half, place), len(finite) - 1) + 1
        made.append(LossPoint(step=finite[place].step, loss=(sums[high] - sums[low]) / (high - low)))
    return made


def best(points: Sequence[LossPoint]) -> LossPoint | None:
    """Return the point with the lowest loss, the earliest of equals. None if no loss is finite."""
    return min((point for point in points if math.isfinite(point.loss)), key=_loss, default=None)
