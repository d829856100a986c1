"""The labels of a classification: those of a dataset, and how well each is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from touchline.domain.experiment import DataConfig, EvaluateConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSet:
    """The labels of one dataset, for `task: classification`."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    dataset: str
    """The dataset's file, absolute."""
    column: str
    """The column of its answers."""
    labels: tuple[str, ...]
    """The labels."""
    counts: dict[str, tuple[int, ...]]
    """By split, how many rows each label has, in the order of `labels`."""

    def majority(self, split: str) -> tuple[str, int, int] | None:
        """Return the most frequent label of a split, its rows, and all rows; None if the split has none."""
        counts = self.counts.get(split, ())
        if not sum(counts):
            return None
        most = max(range(len(counts)), key=counts.__getitem__)
        return self.labels[most], counts[most], sum(counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """How well one label of a classification is found."""

    label: str
    """The label."""
    items: int
    """Answers whose right label it is."""
    predicted: int
    """Answers from which it was read."""
    right: int
    """Answers that are both."""
    precision: float | None
    """right / predicted; none where it was never read."""
    recall: float | None
    """right / items; none where no item has it."""
    f1: float | None
    """Harmonic mean of both, with an undefined precision as 0; none where no item has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """What a classification's answers show, label by label."""

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


def labels_of(sets: Sequence[LabelSet], dataset: str, data: DataConfig, evaluate: EvaluateConfig) -> tuple[str, ...]:
    """Return the labels that a run is scored on; none if its dataset has no labels.

    Args:
        sets: the labels of each dataset.
        dataset: the dataset's file, absolute.
        data: the run's columns.
        evaluate: the run's evaluation, which may name the labels.
    """
    column, given = data.messages or data.output, tuple(str(label).strip() for label in evaluate.labels)
    fitting = (each for each in sets if each.dataset == dataset and each.column == column)
    return next((each.labels for each in fitting if not given or given == each.labels), ())
