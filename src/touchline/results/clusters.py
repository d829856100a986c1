"""Clusters of test items, read again under the current experiment definition."""

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
    """Return the records with each item's cluster from `evaluate.cluster`, and a note for the reader.

    The scores file holds the clusters from the time of writing. Clusters change no score, so the column may be set,
    changed or removed later: they are read from the dataset again. If that fails, the clusters of the scores file stay
    and the note says so. Custom tasks set the clusters of their items themselves.

    Args:
        records: evaluations that are current under `config`.
        config: planned evaluation of the run.
        folder: run folder; the dataset path is relative to it.
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
