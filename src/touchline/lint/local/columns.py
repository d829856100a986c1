"""Comparison of a config's statements on a local data file with the file: format and field."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from touchline.backends.registry import traits_of
from touchline.backends.traits import TrainerTraits
from touchline.core.files import FileCache, open_regular
from touchline.core.finding import Finding, Severity
from touchline.core.json_text import parse_json
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource, StatedTraining
from touchline.lint.local.lookup import path_of

_LIMIT: Final = 16 << 20
"""Maximum size of a file that is opened to read its columns."""
_BEGINNING: Final = 1 << 20
_ENDINGS: Final = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv", ".txt"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}
_DATA_ENDINGS: Final = frozenset(ending for endings in _ENDINGS.values() for ending in endings)
_TRAINED_ON: Final = ("train", "training")
_HELD_OUT: Final = ("validation", "val", "valid", "eval", "dev", "test")
"""Names of splits, the most likely first."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Beginning of a JSON file."""

    keys: tuple[str, ...] | None
    """Keys of its object; None if it is a list, or one row per line."""
    has_columns: bool
    """Whether its first row is a JSON object with keys."""


def data_findings_of(
    training: StatedTraining, document: ForeignDocument, folder: Path, reader: str
) -> Iterator[Finding]:
    """Yield BK025: the file has another format than the config states, or lacks the field that it names.

    Args:
        training: what the config states.
        document: the config.
        folder: folder that its paths start from.
        reader: trainer whose config it is, which reads the data; our own settings name another one as the backend.
    """
    traits = traits_of(reader)
    for source in training.sources:
        path = path_of(source.name.value, folder) if source.kind == "file" else None
        if path is not None and path.is_file():
            yield from _format(source, path)
            own = traits.loads_by_itself(document, source.name.key.partition(".")[0])
            yield from _field(traits, source, path, Severity.WARNING if own else Severity.ERROR)


def _format(source: StatedSource, path: Path) -> Iterator[Finding]:
    stated, ending = source.format, path.suffix.lower()
    allowed = None if stated is None else _ENDINGS.get(stated.value)
    if stated is None or stated.is_default or allowed is None or ending in allowed or ending not in _DATA_ENDINGS:
        return
    message = f"{stated.value} is to be read, and {source.name.value} is a {ending} file"
    yield _finding(stated.key, message, source, _format_of(ending))


def _format_of(ending: str) -> str | None:
    return next((name for name, endings in _ENDINGS.items() if ending in endings), None)


def _field(traits: TrainerTraits, source: StatedSource, path: Path, severity: Severity) -> Iterator[Finding]:
    """Yield problems of `field`, the key of the rows in a JSON object."""
    if not traits.names_field or path.suffix.lower() != ".json":
        return
    begins = beginning(path)
    if begins is None:
        return
    field = source.field
    if field is not None and begins.keys is None:
        message = f"field: {field.value} is a key of a JSON object, and {source.name.value} is a list of rows"
        yield _finding(field.key, message, source, "leave field out", severity)
    elif field is not None and begins.keys is not None and field.value not in begins.keys:
        message = f"{source.name.value} has no key {field.value!r}; it has {', '.join(begins.keys[:6])}"
        yield _finding(field.key, message, source, _field_for(source, begins.keys), severity)
    elif field is None and begins.keys is not None and traits.needs_field and begins.has_columns:
        message = f"the rows of {source.name.value} are under {', '.join(begins.keys[:6])}, and no field is named"
        yield _finding(source.name.key, message, source, _field_for(source, begins.keys), severity)


def _field_for(source: StatedSource, keys: Sequence[str]) -> str:
    """Return the field that a source means: the key that its split names, else the one that its role is called by."""
    split = None if source.split is None or source.split.is_default else source.split.value.partition("[")[0]
    wanted = _HELD_OUT if source.role == "validation" else _TRAINED_ON
    named = [key for key in (split, *wanted) if key in keys and not (key in _TRAINED_ON and wanted is _HELD_OUT)]
    return f"field: {named[0] if named else keys[0]}"


def _finding(
    subject: str, message: str, source: StatedSource, hint: str | None, severity: Severity = Severity.ERROR
) -> Finding:
    at = source.field if subject.endswith("field") and source.field is not None else source.name
    return Finding(code="BK025", severity=severity, subject=subject, message=message, where=at.where, hint=hint)


def _beginning(path: Path) -> Beginning | None:
    if path.suffix.lower() not in _ENDINGS["json"]:
        return None
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
            text = file.read(_BEGINNING)
            start = text.lstrip()
            if start.startswith("["):
                row, _ = json.JSONDecoder().raw_decode(start[1:].lstrip())
                return Beginning(None, bool(row) and isinstance(row, dict))
            first, _, more = start.partition("\n")
            row = _row(first)
            if row is not None and (more.strip() or path.suffix.lower() != ".json"):
                return Beginning(None, bool(row) and isinstance(row, dict))
            if path.stat().st_size > _LIMIT:
                return None
            whole = parse_json(text + file.read())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return None
    lists = {str(key): value for key, value in whole.items() if isinstance(value, list) and value}
    tables = {key: value for key, value in lists.items() if isinstance(value[0], dict)}
    if not tables or len(tables) != len(lists):
        return None
    return Beginning(tuple(tables), bool(next(iter(tables.values()))[0]))


beginning = FileCache(_beginning, 1 << 30)
"""Return the beginning of a JSON or JSON Lines file; None if it is neither, too large, or unreadable."""


def _row(line: str) -> object:
    try:
        found = parse_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
