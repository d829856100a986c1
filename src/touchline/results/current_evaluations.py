"""Evaluations under the current experiment definition: primary metric and clusters.

Changing either needs no new evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.errors import InputError, TouchlineError
from touchline.data.datasets import load_clusters
from touchline.data.scores import EvaluationRecord
from touchline.experiment.evaluation import EvaluationConfig
from touchline.experiment.tasks.classification import canonical_label
from touchline.experiment.tasks.ready_made import get_task
from touchline.statistics.labels import LabelReport, label_report


def with_metric(
    records: Sequence[EvaluationRecord], config: EvaluationConfig
) -> tuple[tuple[EvaluationRecord, ...], str | None]:
    """Return the records with `evaluate.metric` as score of the experiment's own task, and a note for the reader.

    Args:
        records: evaluations that are current under `config`.
        config: planned evaluation of the run.
    """
    own = [record for record in records if record.task == config.task]
    if config.evaluate.metric is None or not own:
        return tuple(records), None
    found: list[EvaluationRecord] = []
    note = None
    for record in records:
        chosen = _chosen(record, config, config.evaluate.metric) if record.task == config.task else record
        if chosen is None:
            names = dict.fromkeys(name for sample in record.samples for name in sample.scores)
            note = (
                f"evaluate.metric: the task has no score {config.evaluate.metric!r}, expected one of "
                f"{', '.join(names) or record.score}; {record.score} is shown"
            )
        found.append(chosen or record)
    return tuple(found), note


def labels_of_record(record: EvaluationRecord) -> LabelReport | None:
    """Return the per-label report of a classification; None for another task."""
    if not record.labels:
        return None
    answers = [(canonical_label(sample.target, record.labels), sample.label) for sample in record.samples]
    return label_report(record.labels, answers)


def _chosen(record: EvaluationRecord, config: EvaluationConfig, metric: str) -> EvaluationRecord | None:
    """Return the record with another score; None if it has no such score."""
    if config.own is None:
        try:
            name, field = get_task(config.task).metric(metric)
        except InputError:
            return None
        if name == record.score:
            return record
        scored = (
            replace(sample, value=float(sample.match if field == "match" else sample.exact))
            for sample in record.samples
        )
        return replace(record, score=name, samples=tuple(scored))
    if not any(metric in sample.scores for sample in record.samples):
        return None
    samples = tuple(
        replace(
            sample,
            value=sample.scores.get(metric),
            error=sample.error
            if metric in sample.scores
            else sample.error or f"the scorer gave it no number as {metric}",
        )
        for sample in record.samples
    )
    return replace(record, score=metric, samples=samples)


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
    found: dict[str, EvaluationRecord] = {}
    notes: dict[str, None] = {}
    for task in (None, *config.tasks):
        asked = config.resolved(task)
        own = [record for record in records if record.label == config.label_of(task)]
        # A task in a file sets the clusters of its items, unless they are the dataset's.
        if not own or (asked.is_file and (column is None or not config.asks_as_trained(task))):
            continue
        clusters: Mapping[str, str | None] = {}
        if column is not None:
            here = config.on(task)
            try:
                clusters = load_clusters(here.data, folder, column, here.data_sha256)
            except TouchlineError as fault:
                known = any(sample.cluster is not None for record in own for sample in record.samples)
                left = "clusters are those of the evaluation's day" if known else "all items count as standing alone"
                notes[f"evaluate.cluster: {column} could not be read ({fault.message}): {left}"] = None
                continue
        found |= {record.log: _with(record, clusters) for record in own}
    note = "; ".join(notes) if notes else None
    return tuple(found.get(record.log, record) for record in records), note


def _with(record: EvaluationRecord, clusters: Mapping[str, str | None]) -> EvaluationRecord:
    if all(sample.cluster == clusters.get(sample.id) for sample in record.samples):
        return record
    return replace(record, samples=tuple(replace(sample, cluster=clusters.get(sample.id)) for sample in record.samples))
