"""Reader of lm-evaluation-harness output: `results_<date>.json` and `samples_<task>_<date>.jsonl` beside it.

Both are untrusted: reads are bounded and every type is checked. The format is that of version 0.4.13.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic_core import from_json

from touchline.core.errors import InputError
from touchline.core.files import FileCache, read_text_bounded
from touchline.core.json_text import parse_json
from touchline.data.benchmarks import HarnessResults, HarnessScore, HarnessTask

_LIMIT_BYTES = 1 << 26
_SAMPLES_LIMIT_BYTES = 1 << 28
_ERROR = "_stderr"
_PREFIX = "results"
_LARGE = ("doc", "arguments", "resps", "filtered_resps", "target")
_FILE_NAME = re.compile(r"[^/\0]{1,255}")

Items = dict[str, float]
"""Score per item, by its number and hash."""


def read_results(path: Path) -> HarnessResults:
    """Read a results file.

    Raises:
        InputError: it cannot be read, or is not a results file.
    """
    try:
        data = parse_json(read_text_bounded(path, _LIMIT_BYTES))
    except (ValueError, RecursionError):
        raise InputError(f"{str(path)!r} is not JSON", expected="a results file of the harness") from None
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, dict):
        raise InputError(f"{str(path)!r} has no `results`", expected="a results file of the harness")
    groups = _mapping(data, "group_subtasks").values()
    inner = {str(name) for names in groups if isinstance(names, list) for name in names}
    shown = {name: values for name, values in results.items() if isinstance(values, dict)}
    shown = {name: values for name, values in shown.items() if name not in inner} or shown
    return HarnessResults(
        version=str(data.get("lm_eval_version", "of unknown version")),
        date=_number(data.get("date")) or 0.0,
        tasks={name: _task(name, data) for name in shown},
        scores=tuple(score for name, values in shown.items() for score in _scores(name, values)),
        higher_is_better={
            (name, str(metric)): higher
            for name in shown
            for metric, higher in _mapping(_mapping(data, "higher_is_better"), name).items()
            if isinstance(higher, bool)
        },
    )


def read_items(results: Path, score: HarnessScore) -> Items | None:
    """Return the score per item behind one metric; None if not kept, or if their mean is not the metric.

    Args:
        results: results file; the samples are in the same folder.
        score: metric.
    """
    name = f"samples_{score.task}{results.stem.removeprefix(_PREFIX)}.jsonl"
    if not _FILE_NAME.fullmatch(name):
        # A task's name must not lead elsewhere.
        return None
    found: Items = {}
    for row in _rows(results.parent / name):
        if row.get("filter", "none") != score.filter:
            continue
        value = _number(row.get(score.key))
        if value is None:
            return None
        found[f"{row.get('doc_id')} {row.get('doc_hash')}"] = value
    if not found or not math.isclose(math.fsum(found.values()) / len(found), score.value, abs_tol=1e-9):
        # Perplexities and the like are no means over items.
        return None
    return found


def _scores(task: str, values: Mapping[str, object]) -> Iterator[HarnessScore]:
    for name, value in values.items():
        metric, comma, by = name.partition(",")
        number = _number(value)
        if not comma or number is None or metric.endswith(_ERROR):
            continue
        yield HarnessScore(
            task=task,
            metric=metric if by == "none" else f"{metric} ({by})",
            key=metric,
            filter=by,
            value=number,
            standard_error=_number(values.get(f"{metric}{_ERROR},{by}")),
        )


def _task(name: str, data: Mapping[str, object]) -> HarnessTask:
    effective = _number(_mapping(_mapping(data, "n-samples"), name).get("effective"))
    docs = _mapping(data, "task_hashes").get(name)
    template = data.get("chat_template_sha")
    return HarnessTask(
        version=str(_mapping(data, "versions").get(name)),
        num_fewshot=str(_mapping(data, "n-shot").get(name)),
        items=None if effective is None else int(effective),
        docs=docs if isinstance(docs, str) else None,
        chat_template=template if isinstance(template, str) else None,
    )


def _mapping(data: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    """Return a finite number, else None; the harness writes `N/A` for an unknown standard error."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _parse(path: Path) -> Sequence[Mapping[str, object]]:
    try:
        text = read_text_bounded(path, _SAMPLES_LIMIT_BYTES)
    except (InputError, OSError, ValueError):
        return ()
    rows: list[Mapping[str, object]] = []
    # Not every line break of Unicode ends a line here: an answer may hold one.
    for line in text.split("\n"):
        try:
            row = from_json(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            # What was asked and answered is most of a row, and is not needed here.
            rows.append({key: value for key, value in row.items() if key not in _LARGE})
    return rows


_rows = FileCache(_parse, _SAMPLES_LIMIT_BYTES)
"""Return the lines of a samples file; empty if it cannot be read. The metrics of a task stand in one file."""
