"""Answers of all runs: samples.jsonl, and samples.parquet if pyarrow is installed.

The rows are flat, with the same keys in the same order, so that any table reader can load them. They are streamed
because a thousand runs of a thousand items are a million rows. A file appears only when complete.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from touchline.core.files import disk_errors
from touchline.data.scores import AskedItem, EvaluationRecord, SampleScore
from touchline.experiment.tasks.ready_made import TASKS
from touchline.report.facts import seeds_of
from touchline.report.report import Report
from touchline.results.run_result import RunResult

Row = Mapping[str, object]
"""Answer, as returned by `sample_rows`."""

_ROWS_AT_ONCE = 10_000
_TYPES = {
    "seed": "int64",
    "repeat": "int32",
    "score": "float64",
    "exact": "bool",
    "match": "bool",
    "parsed": "bool",
    "levels": "levels",
}
"""Types of non-text columns."""


def write_lines(rows: Iterable[Row], path: Path) -> int:
    """Write JSON lines atomically. Return the number of rows."""
    count = 0
    with _replacing(path) as temporary, temporary.open("x", encoding="utf-8", errors="backslashreplace") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    return count


def can_write_parquet() -> bool:
    """Return True if pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def write_parquet(rows: Iterable[Row], path: Path) -> int:
    """Write a Parquet table atomically; needs pyarrow. Return the number of rows.

    Column types do not depend on content, so tables of runs with and without errors can be concatenated. `levels` is a
    map of strings.
    """
    import pyarrow.parquet

    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return 0
    schema = pyarrow.schema([(name, _type(pyarrow, name)) for name in first])
    count = 0
    with (
        _replacing(path) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for piece in _pieces(itertools.chain([first], remaining)):
            writer.write_table(pyarrow.Table.from_pylist([_plain(row) for row in piece], schema=schema))
            count += len(piece)
    return count


def _type(pyarrow: Any, name: str) -> Any:
    kind = _TYPES.get(name, "string")
    if kind == "levels":
        return pyarrow.map_(pyarrow.string(), pyarrow.string())
    return getattr(pyarrow, "bool_" if kind == "bool" else kind)()


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while piece := list(itertools.islice(remaining, _ROWS_AT_ONCE)):
        yield piece


def _plain(row: Row) -> dict[str, object]:
    """Return a row in Arrow types: maps as pairs, text as valid Unicode."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: object) -> object:
    if isinstance(value, Mapping):
        return [(str(key), str(each)) for key, each in value.items()]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` if the block succeeds."""
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}.tmp"
    with disk_errors("file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


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
        record.label,
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
