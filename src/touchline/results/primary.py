"""Primary metric of an evaluation; changing it needs no new evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from touchline.core.errors import InputError
from touchline.data.scores import EvaluationRecord
from touchline.spec.evaluation import EvaluationConfig
from touchline.spec.tasks.classification import canonical_label
from touchline.spec.tasks.ready_made import get_task
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
