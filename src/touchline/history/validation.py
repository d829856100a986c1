"""Validation losses of a run by its logs: each with the optimizer step that it was measured at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from touchline.core.quantity import Measured, Quantity
from touchline.history.file_segment import KEPT
from touchline.history.run_view import RunView, SourcedObservation
from touchline.history.scores import ValidationPoint, validation_points
from touchline.history.steps import Steps


def validation_of(view: RunView, steps: Steps, epochs: Measured, remarks: list[str]) -> tuple[ValidationPoint, ...]:
    """Return the validation losses of all segments; of a step that was done twice the later one.

    A row with an epoch and no step is placed by the run's steps and epochs, where both are known.

    Args:
        remarks: gets the reason for leaving losses out.
    """
    found = [segment.all("eval_loss") for segment in view.segments]
    if not any(found):
        found = [view.documents.all("eval_loss")]
    if any(each.seen.certain for rows in found for each in rows):
        found = [[each for each in rows if each.seen.certain] for rows in found]
    if any(count >= 2 * KEPT for rows in found for count in Counter(each.file for each in rows).values()):
        remarks.append(f"validation losses not used: the log has {2 * KEPT} or more, and not all are kept")
        return ()
    total = steps.total.value if isinstance(steps.total, Quantity) else None
    per_epoch = total / epochs.value if total and isinstance(epochs, Quantity) and epochs.value > 0 else None
    pairs: list[tuple[int, float]] = []
    for rows in found:
        placed = list(_placed(rows, per_epoch))
        if any(later < earlier for (_, earlier, _), (_, later, _) in _neighbours(placed)):
            remarks.append("validation losses not used: their steps decrease within an attempt")
            return ()
        pairs = [pair for pair in pairs if not placed or pair[0] < placed[0][1]]
        pairs += [(step, loss) for _, step, loss in placed]
    return validation_points([pair for pair in pairs if total is None or pair[0] <= math.ceil(total)])


def _placed(rows: Sequence[SourcedObservation], per_epoch: float | None) -> Iterator[tuple[str, int, float]]:
    for each in rows:
        if each.number is None:
            continue
        if each.seen.step is not None:
            yield each.file, each.seen.step, each.number
        elif each.seen.epoch is not None and per_epoch is not None:
            yield each.file, round(each.seen.epoch * per_epoch), each.number


def _neighbours(
    placed: Sequence[tuple[str, int, float]],
) -> Iterator[tuple[tuple[str, int, float], tuple[str, int, float]]]:
    yield from ((a, b) for a, b in pairwise(placed) if a[0] == b[0])
