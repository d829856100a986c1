"""Rows of samples.jsonl, and of samples.parquet if pyarrow is installed: one per answer of every evaluation.

The rows are flat, with the same keys in the same order, so that any table reader can load them.
"""

from __future__ import annotations

from collections.abc import Iterator

from touchline.data.scores import AskedItem, EvaluationRecord, SampleScore
from touchline.report.facts import seeds_of
from touchline.report.report import Report
from touchline.results.run_result import RunResult
from touchline.spec.tasks.ready_made import TASKS

COLUMNS = (
    "run", "model", "levels", "seed", "task", "checkpoint", "item", "repeat", "question", "prompt",
    "target", "output", "score", "exact",
    "match", "stop", "error", "parsed", "cluster", "metric", "label", "decoding",
)  # fmt: skip
"""Keys of a row, in order."""


def sample_rows(report: Report) -> Iterator[dict[str, object]]:
    """Yield the answers of all runs in the report's order: a run's own task first, by epoch, then its further tasks.

    `levels` maps factors to levels; every other value is a text, a number, a boolean or None. `question` is the item's
    input, `prompt` the full model input, None if it was not recorded. `score` is the primary score, `metric` its name.
    `exact` and `match` are None for a task with a score of its own.
    """
    seeds = seeds_of(report.runs)
    for result in report.runs:
        for record in (*result.evaluations, *result.other_evaluations):
            asked = report.asked.get(record.asked_key, {})
            for sample in record.samples:
                yield _row(result, seeds.get(result.name), record, sample, asked.get(sample.id))


def _row(
    result: RunResult, seed: int | None, record: EvaluationRecord, sample: SampleScore, asked: AskedItem | None
) -> dict[str, object]:
    own = sample.value is not None and record.task not in TASKS
    values = (
        result.name,
        result.model,
        {level.factor: level.value for level in result.levels},
        seed,
        record.task,
        record.checkpoint,
        sample.id,
        sample.repeat,
        None if asked is None else asked.question,
        None if asked is None else asked.prompt,
        sample.target,
        sample.output,
        sample.score,
        None if own else sample.exact,
        None if own else sample.match,
        sample.stop,
        sample.error,
        sample.parsed,
        sample.cluster,
        record.score,
        sample.label,
        record.decoding,
    )
    return dict(zip(COLUMNS, values, strict=True))
