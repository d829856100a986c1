"""Labels of a classification: its scores by label, and derangements for a shuffled control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STREAM = 0x5EED1ABE1
"""Keeps these draws independent of the others of the same seed, such as the order of the examples."""


def label_generator(seed: int) -> np.random.Generator:
    """Return the random generator of a run's shuffled control; `seed` is the run's."""
    import numpy as np

    return np.random.Generator(np.random.PCG64([_STREAM, seed]))


def derangement(count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return a permutation of `count` items without fixed points, for two or more.

    Every cyclic permutation is equally likely. Places are deranged and not values: where answers repeat, as the labels
    of a classification do, some rows get an answer of the same text, as often as chance has it. Were that ruled out,
    two balanced classes would always be swapped, and a swap is as easy to learn as the truth.

    Returns:
        Shape [count]; place `i` gets what was at place `result[i]`.
    """
    import numpy as np

    order = generator.permutation(count)
    dealt = np.empty(count, dtype=np.int64)
    dealt[order] = np.roll(order, -1)
    return dealt


def label_report(labels: Sequence[str], answers: Sequence[tuple[str, str | None]]) -> LabelReport:
    """Return precision, recall and F1 of each label, and what was taken for what.

    Args:
        answers: of each answer the right label, and the one that was read; None if none could be read.
    """
    known = list(dict.fromkeys((*labels, *(right for right, _ in answers))))
    pairs = Counter(answers)
    asked_for = Counter(right for right, _ in answers)
    rows = [[pairs[right, read] for read in known] for right in known]
    confusion = tuple((*row, asked_for[right] - sum(row)) for right, row in zip(known, rows, strict=True))
    scores = tuple(_label_score(label, place, confusion) for place, label in enumerate(known))
    asked = [score for score in scores if score.items]
    return LabelReport(
        labels=scores,
        confusion=confusion,
        unread=sum(row[-1] for row in confusion),
        answers=len(answers),
        accuracy=sum(score.right for score in scores) / len(answers) if answers else 0.0,
        macro_f1=fmean(each.f1 or 0.0 for each in asked) if asked else None,
        balanced_accuracy=fmean(each.recall or 0.0 for each in asked) if asked else None,
        majority=max((score.items for score in scores), default=0) / len(answers) if answers else 0.0,
    )


def _label_score(label: str, place: int, confusion: Sequence[Sequence[int]]) -> LabelScore:
    items, right = sum(confusion[place]), confusion[place][place]
    predicted = sum(row[place] for row in confusion)
    return LabelScore(
        label=label,
        items=items,
        predicted=predicted,
        right=right,
        precision=right / predicted if predicted else None,
        recall=right / items if items else None,
        f1=2 * right / (items + predicted) if items else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """Precision, recall and F1 of one label."""

    label: str
    """The label."""
    items: int
    """Answers whose right label it is."""
    predicted: int
    """Answers from which it was read."""
    right: int
    """Answers that are both."""
    precision: float | None
    """right / predicted; None if it was never read."""
    recall: float | None
    """right / items; None if no item has it."""
    f1: float | None
    """Harmonic mean of both, with an undefined precision as 0; None if no item has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """Scores of a classification by label."""

    labels: tuple[LabelScore, ...]
    """Each label."""
    confusion: tuple[tuple[int, ...], ...]
    """Answers by right label (rows) and by the label that was read (columns, the last one: none was read)."""
    unread: int
    """Answers from which no label could be read; they count as wrong."""
    answers: int
    """All answers."""
    accuracy: float
    """Share of the answers that are right."""
    macro_f1: float | None
    """Mean F1 of the labels that items have."""
    balanced_accuracy: float | None
    """Mean recall of the labels that items have."""
    majority: float
    """Share of the most frequent right label: what one answer for all would score."""
