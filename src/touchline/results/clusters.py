"""Which test items belong together, as the experiment says now: it may say so after everything is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.errors import TouchlineError
from touchline.data.datasets import load_clusters
from touchline.data.scores import EvaluationRecord
from touchline.spec.evaluation import EvaluationConfig


def with_clusters(
    records: Sequence[EvaluationRecord], config: EvaluationConfig, folder: Path
) -> tuple[tuple[EvaluationRecord, ...], str | None]:
    """The records with each item's cluster as `evaluate.cluster` has it, and what a reader must know.

    The scores file has the clusters of the day when it was written. Clusters change no score, so that the column may be
    named, changed or taken back afterwards: they are read from the dataset again. Where that cannot be, those of the
    scores file stay, and it is said. Items of a task of the user's own say it themselves.

    Args:
        records: evaluations that are current by `config`.
        config: the run's evaluation as it is planned now.
        folder: the run's folder, to which the dataset's path is relative.
    """
    column = config.evaluate.cluster
    asked = [record for record in records if _is_of_the_dataset(record, config)]
    if not asked:
        return tuple(records), None
    clusters: Mapping[str, str | None] = {}
    if column is not None:
        try:
            clusters = load_clusters(config.data, folder, column, config.data_sha256)
        except TouchlineError as fault:
            known = any(sample.cluster is not None for record in asked for sample in record.samples)
            left = "clusters are those of the evaluation's day" if known else "all items count as standing alone"
            return tuple(records), f"evaluate.cluster: {column} could not be read ({fault.message}): {left}"
    return tuple(_with(record, clusters) if _is_of_the_dataset(record, config) else record for record in records), None


def _is_of_the_dataset(record: EvaluationRecord, config: EvaluationConfig) -> bool:
    task = config.task_named(record.task)
    return task is None or task.file is None


def _with(record: EvaluationRecord, clusters: Mapping[str, str | None]) -> EvaluationRecord:
    if all(sample.cluster == clusters.get(sample.id) for sample in record.samples):
        return record
    return replace(record, samples=tuple(replace(sample, cluster=clusters.get(sample.id)) for sample in record.samples))
