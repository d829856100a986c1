"""Every evaluation that is there, with the decoding that it was made by: those that count, and earlier ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from touchline.data.scores import EvaluationRecord
from touchline.report.formatting import percent
from touchline.results.run_result import RunResult

HEADER = ("run", "checkpoint", "task", "score", "mean", "answers", "decoding", "used")
USED, EARLIER = "yes", "no: other settings"


def has_several(runs: Sequence[RunResult]) -> bool:
    """Return True if evaluations by other settings are kept beside those that count."""
    return any(run.earlier_evaluations for run in runs)


def evaluation_rows(runs: Sequence[RunResult]) -> Iterator[tuple[str, ...]]:
    """Give each evaluation, of a run those that count first."""
    for run in runs:
        for record in (*run.evaluations, *run.other_evaluations):
            yield _row(run, record, USED)
        for record in run.earlier_evaluations:
            yield _row(run, record, EARLIER)


def metric_rows(runs: Sequence[RunResult]) -> Iterator[tuple[str, ...]]:
    """Give the metrics that tasks of the user's own declare, as Inspect computed them."""
    for run in runs:
        for record in (*run.evaluations, *run.other_evaluations):
            for each in record.metrics:
                yield run.name, record.checkpoint, record.task, each.score, each.name, f"{each.value:.4g}"


METRIC_HEADER = ("run", "checkpoint", "task", "score", "metric", "value")


def _row(run: RunResult, record: EvaluationRecord, used: str) -> tuple[str, ...]:
    scores = [sample.score for sample in record.samples]
    mean = "n/a (no items)"
    if scores:
        value = fmean(scores)
        mean = percent(value) if min(scores) >= 0 and max(scores) <= 1 else f"{value:.4g}"
    return (
        *(run.name, record.checkpoint, record.task, record.score, mean),
        *(f"{len(scores):,}", record.decoding, used),
    )
