"""Strict reader of JOBS.json. All errors are reported together, with suggestions for misspelled keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from touchline.core.errors import InputError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.core.near import did_you_mean, near_names
from touchline.core.text import shorten
from touchline.core.units import parse_duration, plural, seconds_to_minutes
from touchline.plan.placement.types import Minutes, PlaceJob

SIZE_LIMIT_BYTES = 4 * 1024**2
"""Size limit; enough for ten thousand jobs with long names."""
JOBS_LIMIT = 5000
"""Limit on the number of jobs."""
_JOB_KEYS = tuple(each.name for each in fields(PlaceJob))
_MINUTES_KEYS = tuple(each.name for each in fields(Minutes))
_SHOWN = 60
"""Characters of an invalid value that are shown."""


class _TwiceGiven(dict[str, Any]):
    """JSON object with the keys that it defines more than once."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        keys = [key for key, _ in pairs]
        self.twice = sorted({key for key in keys if keys.count(key) > 1}) if len(keys) > len(self) else []


def read_jobs(path: Path) -> list[PlaceJob]:
    """Read the jobs of a file: a JSON list, or `{"jobs": [...]}`.

    Raises:
        InputError: with every fault of the file.
    """
    entries = _entries(path)
    jobs: list[PlaceJob] = []
    found: list[Finding] = []
    adapter = TypeAdapter(PlaceJob)
    for number, entry in enumerate(entries):
        faults = list(_twice(path, number, entry))
        try:
            # A plain number of minutes is a duration without an interval.
            jobs.append(adapter.validate_json(json.dumps(_with_minutes(entry)), strict=True))
        except ValidationError as fault:
            faults += _faults(path, number, entry, fault.errors(include_url=False))
        found += faults
    if found:
        count = len(found)
        raise InputError(
            f"{str(path)!r}: {plural(count, 'problem')}",
            findings=found,
            hint=f"touchline check --explain {found[0].code}",
        )
    return jobs


def parse_deadline(deadline: str | None) -> float | None:
    """Return the minutes of a duration such as `6h`.

    Raises:
        InputError: it is no duration.
    """
    return None if deadline is None else seconds_to_minutes(parse_duration(deadline))


def _entries(path: Path) -> list[Any]:
    text = read_text_bounded(path, SIZE_LIMIT_BYTES)
    form = 'a list of jobs, or {"jobs": [...]}'
    try:
        data = parse_json(text, pairs=_TwiceGiven, constant=_no_constant, allow_half_characters=True)
    except json.JSONDecodeError as fault:
        where = Location(path=str(path), line=fault.lineno, column=fault.colno)
        raise _not_read(path, f"is not JSON: {fault.msg}", form, where) from None
    except (RecursionError, ValueError) as fault:
        raise _not_read(path, f"is not JSON: {fault}", form, Location(path=str(path))) from None
    if isinstance(data, dict):
        if set(data) != {"jobs"} or (isinstance(data, _TwiceGiven) and data.twice):
            shown = ", ".join(repr(str(key)[:_SHOWN]) for key in data) or "nothing"
            raise _not_read(path, f"holds an object with {shown}", form, Location(path=str(path)))
        data = data["jobs"]
    if not isinstance(data, list):
        raise _not_read(path, f"holds {_show(data)}", form, Location(path=str(path)))
    if len(data) > JOBS_LIMIT:
        raise _not_read(path, f"lists {len(data):,} jobs", f"at most {JOBS_LIMIT:,}", Location(path=str(path)))
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _not_read(path: Path, what: str, expected: str, where: Location) -> InputError:
    finding = Finding(
        code="PL100",
        severity=Severity.ERROR,
        subject=path.name,
        message=f"{path.name!r} {what}; expected {expected}",
        where=where,
    )
    return InputError(f"{str(path)!r} is not a job list", findings=[finding], hint="touchline place --help")


def _with_minutes(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    minutes = entry.get("minutes")
    if isinstance(minutes, int | float) and not isinstance(minutes, bool):
        return {**entry, "minutes": {"value": minutes}}
    return entry


def _twice(path: Path, number: int, entry: Any) -> Iterator[Finding]:
    for under, node in (("", entry), (".minutes", entry.get("minutes") if isinstance(entry, dict) else None)):
        for key in node.twice if isinstance(node, _TwiceGiven) else ():
            yield _finding("PL103", path, number, entry, f"{under}.{key}", f"{key!r} is given twice")


def _faults(path: Path, number: int, entry: Any, details: Sequence[ErrorDetails]) -> Iterator[Finding]:
    reported = set()
    for detail in details:
        loc = tuple(detail["loc"])
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
        if place in reported:
            continue
        reported.add(place)
        kind, key = detail["type"], str(loc[-1]) if loc else ""
        if kind == "unexpected_keyword_argument":
            known = _MINUTES_KEYS if len(loc) > 1 else _JOB_KEYS
            near = near_names(key, known, most=1, cutoff=0.6)
            hint = did_you_mean(near, f"known keys: {', '.join(known)}")
            yield _finding("PL101", path, number, entry, place, f"unknown key {key!r}", hint)
        elif kind in ("missing", "missing_argument"):
            yield _finding("PL102", path, number, entry, place, f"{place[1:]} is missing")
        else:
            got = _show(_value(entry, loc))
            message = f"{place.lstrip('.') or 'a job'}: expected {_expected(detail, loc)}, got {got}"
            yield _finding("PL103", path, number, entry, place, message)


def _finding(
    code: str, path: Path, number: int, entry: Any, place: str, message: str, hint: str | None = None
) -> Finding:
    name = entry.get("id") if isinstance(entry, dict) else None
    of = f"job {name[:_SHOWN]!r}" if isinstance(name, str) and name else f"job number {number + 1}"
    return Finding(
        code=code,
        severity=Severity.ERROR,
        subject=f"jobs[{number}]{place}",
        message=f"{of}: {message}",
        where=Location(path=str(path)),
        hint=hint,
    )


def _expected(detail: ErrorDetails, loc: Sequence[int | str]) -> str:
    context = detail.get("ctx", {})
    words = {
        "string_type": "text",
        "string_too_short": "text that is not empty",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "greater_than_equal": f"{context.get('ge', 0):g} or more",
        "json_invalid": "valid Unicode text",
        "tuple_type": 'a list, ["a", "b"]',
        "dataclass_type": "minutes, {value, low, high}" if loc and loc[-1] == "minutes" else "an object",
        "dataclass_exact_type": "minutes, {value, low, high}" if loc and loc[-1] == "minutes" else "an object",
    }
    return words.get(detail["type"], detail["msg"])


def _value(entry: Any, loc: Sequence[int | str]) -> Any:
    node = entry
    for part in loc:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return node
    return node


def _show(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), _SHOWN)
