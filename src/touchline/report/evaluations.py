"""Evaluations with their decoding settings: the current ones, then earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from touchline.core.units import percent
from touchline.data.scores import EvaluationRecord
from touchline.report.table import Column, Figure, Table, table_of
from touchline.results.run_result import RunResult

USED, EARLIER = "yes", "no: other settings"


def has_several(runs: Sequence[RunResult]) -> bool:
    """Return True if evaluations with other settings are kept beside the current ones."""
    return any(run.earlier_evaluations for run in runs)


def evaluation_table(runs: Sequence[RunResult]) -> Table | None:
    """Return the table of evaluations. The current ones of a run come first."""
    columns = (
        *(Column("run", code=True), Column("checkpoint"), Column("task"), Column("score")),
        *(Column("mean", numeric=True), Column("answers", numeric=True), Column("decoding"), Column("used")),
    )
    return table_of(
        columns,
        [
            (run.name, record.checkpoint, record.task, record.score, *_mean(record), record.decoding, used)
            for run in runs
            for used, records in (
                (USED, (*run.evaluations, *run.other_evaluations)),
                (EARLIER, run.earlier_evaluations),
            )
            for record in records
        ],
    )


def metric_table(runs: Sequence[RunResult]) -> Table | None:
    """Return the metrics that custom tasks declare, as computed by Inspect."""
    columns = (
        *(Column("run", code=True), Column("checkpoint"), Column("task"), Column("score"), Column("metric")),
        Column("value", numeric=True),
    )
    return table_of(
        columns,
        [
            (run.name, record.checkpoint, record.task, each.score, each.name, Figure(f"{each.value:.4g}", each.value))
            for run in runs
            for record in (*run.evaluations, *run.other_evaluations)
            for each in record.metrics
        ],
    )


def _mean(record: EvaluationRecord) -> tuple[Figure, int]:
    """Return the mean score and the number of answers."""
    scores = [sample.score for sample in record.samples]
    if not scores:
        return Figure("n/a (no items)"), 0
    value = fmean(scores)
    text = percent(value) if min(scores) >= 0 and max(scores) <= 1 else f"{value:.4g}"
    return Figure(text, value), len(scores)
