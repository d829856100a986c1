"""Short answers for agents: the keys of `--json`, without what is long, and the names under which to ask for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from touchline.core.errors import InputError, TouchlineError
from touchline.core.json_text import answer_object
from touchline.core.near import did_you_mean, near_names
from touchline.core.text import shorten
from touchline.lint.checked import FindingRow, row_of


def error_data(error: TouchlineError) -> dict[str, Any]:
    """Return `{"error": ...}` with the class of an error, its words and its findings."""
    return {
        "error": {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "message": error.message,
            "expected": error.expected,
            "hint": error.hint,
            "findings": answer_object(list[FindingRow], [row_of(each) for each in error.findings]),
        }
    }


ITEMS = 20
"""Longest list in a summary."""
TEXT_CHARACTERS = 600
"""Longest text in a summary."""
SECTION_ITEMS = 200
"""Longest list in a section; the rest is read from the files."""
_QUANTITY_KEYS = frozenset({"value", "unit", "low", "high", "missing", "extrapolated"})

Data = dict[str, Any]


def summary(data: Mapping[str, Any], keys: Collection[str], runs: Collection[str] = ()) -> Data:
    """Return the summary of an answer: some of its keys, with short lists, and what it leaves out.

    Args:
        data: answer in full, without its outermost key.
        keys: keys that the summary has; the names of the others stand under `sections`.
        runs: keys of each entry of `runs` that the summary has.
    """
    found: Data = {}
    for key in keys:
        if key == "runs" and runs:
            entries = [{name: run[name] for name in runs if name in run} for run in data["runs"]]
            found[key] = _short(entries)
        elif key in data:
            found[key] = _short(data[key])
    left_out = {key: len(data[key]) - ITEMS for key in keys if isinstance(data.get(key), list)}
    found["left_out"] = {key: number for key, number in left_out.items() if number > 0}
    found["sections"] = [key for key in data if key not in keys or key in found["left_out"]]
    return found


def section(data: Mapping[str, Any], name: str) -> Data:
    """Return one key of an answer in full, its lists cut at `SECTION_ITEMS`.

    Raises:
        InputError: there is no such key.
    """
    if name not in data:
        raise InputError(
            f"section {name!r}",
            expected=f"one of {', '.join(data)}",
            hint=did_you_mean(near_names(name, list(data), most=1)),
        )
    value = data[name]
    if isinstance(value, list) and len(value) > SECTION_ITEMS:
        return {name: value[:SECTION_ITEMS], "left_out": {name: len(value) - SECTION_ITEMS}}
    return {name: value}


def one_run(data: Mapping[str, Any], run: str) -> Data:
    """Return the entries of one run in full.

    Raises:
        InputError: there is no such run.
    """
    names = [each["name"] for each in data["runs"]]
    found = [each for each in data["runs"] if each["name"] == run]
    if not found:
        raise InputError(f"there is no run {run!r}", expected=f"one of {', '.join(names[:ITEMS])}")
    return {"runs": found}


def _short(value: Any) -> Any:
    """Return data with short lists and texts, and quantities without their provenance."""
    if isinstance(value, dict):
        is_quantity = "unit" in value and "value" in value
        kept = _QUANTITY_KEYS if is_quantity else value.keys()
        return {key: _short(each) for key, each in value.items() if key in kept and each is not None}
    if isinstance(value, list):
        return [_short(each) for each in value[:ITEMS]]
    return shorten(value, TEXT_CHARACTERS) if isinstance(value, str) else value
