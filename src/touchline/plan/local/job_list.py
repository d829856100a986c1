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
from touchline.plan.placement.problem import Minutes, PlaceJob

SIZE_LIMIT_BYTES = 4 * 1024**2
"""Size limit; enough for ten thousand jobs with long names."""
JOBS_LIMIT = 5000
"""Limit on the number of jobs."""
_FORM = 'a list of jobs, or {"jobs": [...]}'
_KEYS = {PlaceJob: tuple(each.name for each in fields(PlaceJob)), Minutes: tuple(each.name for each in fields(Minutes))}
_SHOWN = 60
"""Characters of an invalid value that are shown."""
_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "greater_than_equal": "{ge:g} or more",
    "tuple_type": 'a list, ["a", "b"]',
    "dataclass_type": "an object",
    "dataclass_exact_type": "an object",
}
"""What is expected of a value, by the type of the problem."""


def read_jobs(path: Path) -> list[PlaceJob]:
    """Read the jobs of a file: a JSON list, or `{"jobs": [...]}`. Raises InputError: with every fault of the file."""
    jobs: list[PlaceJob] = []
    found: list[Finding] = []
    adapter = TypeAdapter(PlaceJob)
    for number, entry in enumerate(_entries(path)):
        try:
            # A plain number of minutes is a duration without an interval.
            jobs.append(adapter.validate_json(json.dumps(_with_minutes(entry)), strict=True))
        except ValidationError as fault:
            found += _faults(path, number, entry, fault.errors(include_url=False))
    if found:
        raise InputError(
            f"{str(path)!r}: {plural(len(found), 'problem')}",
            findings=found,
            hint=f"touchline check --explain {found[0].code}",
        )
    return jobs


def parse_deadline(deadline: str | None) -> float | None:
    """Return the minutes of a duration such as `6h`. Raises InputError: it is no duration."""
    return None if deadline is None else seconds_to_minutes(parse_duration(deadline))


def _entries(path: Path) -> list[Any]:
    where = Location(path=str(path))
    try:
        data = parse_json(read_text_bounded(path, SIZE_LIMIT_BYTES), constant=_no_constant)
    except ValueError as fault:
        if isinstance(fault, json.JSONDecodeError):
            where = Location(path=str(path), line=fault.lineno, column=fault.colno)
        raise _not_read(path, f"is not JSON: {fault}", _FORM, where) from None
    if isinstance(data, dict) and set(data) == {"jobs"}:
        data = data["jobs"]
    if not isinstance(data, list):
        raise _not_read(path, f"holds {_show(data)}", _FORM, where)
    if len(data) > JOBS_LIMIT:
        raise _not_read(path, f"lists {len(data):,} jobs", f"at most {JOBS_LIMIT:,}", where)
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _not_read(path: Path, what: str, expected: str, where: Location) -> InputError:
    message = f"{path.name!r} {what}; expected {expected}"
    finding = Finding(code="PL100", severity=Severity.ERROR, subject=path.name, message=message, where=where)
    return InputError(f"{str(path)!r} is not a job list", findings=[finding], hint="touchline place --help")


def _with_minutes(entry: Any) -> Any:
    minutes = entry.get("minutes") if isinstance(entry, dict) else None
    is_number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    return {**entry, "minutes": {"value": minutes}} if is_number else entry


def _faults(path: Path, number: int, entry: Any, details: Sequence[ErrorDetails]) -> Iterator[Finding]:
    name = entry.get("id") if isinstance(entry, dict) else None
    of = f"job {name[:_SHOWN]!r}" if isinstance(name, str) and name else f"job number {number + 1}"
    for detail in details:
        loc = tuple(detail["loc"])
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
        kind, key, hint = detail["type"], str(loc[-1]) if loc else "", None
        if kind == "unexpected_keyword_argument":
            known = _KEYS[Minutes if len(loc) > 1 else PlaceJob]
            hint = did_you_mean(near_names(key, known, most=1, cutoff=0.6), f"known keys: {', '.join(known)}")
            message = f"unknown key {key!r}"
        elif kind in ("missing", "missing_argument"):
            message = f"{place} is missing"
        else:
            expected = _EXPECTED.get(kind, detail["msg"]).format(**detail.get("ctx", {}))
            message = f"{place or 'a job'}: expected {expected}, got {_show(detail['input'])}"
        yield Finding(
            code="PL103",
            severity=Severity.ERROR,
            subject=f"jobs[{number}]{'.' if place else ''}{place}",
            message=f"{of}: {message}",
            where=Location(path=str(path)),
            hint=hint,
        )


def _show(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), _SHOWN)
