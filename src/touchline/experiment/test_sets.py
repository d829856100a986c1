"""Test sets of a run that have names: what each evaluation of it asks."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.catalog import DatasetInfo, SplitInfo
from touchline.experiment.experiment import EvaluateConfig


def further_sets(dataset: DatasetInfo) -> Sequence[SplitInfo]:
    """Return the test sets after the one named first, on which the claims are made."""
    return dataset.test_sets[1:]


def asked_items(evaluate: EvaluateConfig, rows: int) -> int:
    """Return the number of items of a test set that are asked."""
    return rows if evaluate.samples == "all" else min(evaluate.samples, rows)


def logs_per_checkpoint(dataset: DatasetInfo, evaluate: EvaluateConfig) -> int:
    """Return the number of evaluations of one checkpoint: a log for every test set and further task."""
    return 1 + len(further_sets(dataset)) + len(evaluate.tasks)


def answers_per_checkpoint(dataset: DatasetInfo, evaluate: EvaluateConfig) -> int:
    """Return the answers to every test set and further task, repeats included, at one checkpoint.

    Further tasks ask the test set named first.
    """
    first = next((split.num_examples for split in dataset.splits if split.name == "test"), 0)
    items = asked_items(evaluate, first) * (1 + len(evaluate.tasks))
    items += sum(asked_items(evaluate, each.num_examples) for each in further_sets(dataset))
    return evaluate.repeats * items
