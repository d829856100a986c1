"""The labels of a classification: those of a dataset, and how well each is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from touchline.experiment.experiment import DataConfig, EvaluateConfig


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
