"""Answers of all runs: samples.jsonl.

The rows are flat, with the same keys in the same order, so that any table reader can load them. They are streamed
because a thousand runs of a thousand items are a million rows. A file appears only when complete.
"""

from __future__ import annotations

import filecmp
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from touchline.core.files import disk_errors
from touchline.core.text import valid_utf8
from touchline.data.scores import AskedItem, EvaluationRecord, SampleScore
from touchline.experiment.tasks.ready_made import TASKS
from touchline.report.facts import seeds_of
from touchline.report.report import Report
from touchline.results.run_result import RunResult

Row = Mapping[str, object]
"""Answer, as returned by `sample_rows`."""


def write_lines(rows: Iterable[Row], path: Path) -> int:
    """Write JSON lines atomically, unless the file holds them already. Return the number of rows."""
    count = 0
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}.tmp"
    with disk_errors("file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x", encoding="utf-8") as stream:
                for row in rows:
                    stream.write(valid_utf8(json.dumps(row, ensure_ascii=False)) + "\n")
                    count += 1
                stream.flush()
                os.fsync(stream.fileno())
            if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
                temporary.unlink()
            else:
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return count


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
    return {
        "run": result.name,
        "model": result.model,
        "levels": {level.factor: level.value for level in result.levels},
        "seed": seed,
        "task": record.label,
        "checkpoint": record.checkpoint,
        "item": sample.id,
        "repeat": sample.repeat,
        "question": None if asked is None else asked.question,
        "prompt": None if asked is None else asked.prompt,
        "target": sample.target,
        "output": sample.output,
        "score": sample.score,
        "exact": None if own else sample.exact,
        "match": None if own else sample.match,
        "stop": sample.stop,
        "error": sample.error,
        "parsed": sample.parsed,
        "cluster": sample.cluster,
        "metric": record.score,
        "label": sample.label,
        "decoding": record.decoding,
    }
