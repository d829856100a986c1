"""Comparison of a config's statements on a local data file with the file: format, field, columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from touchline.backends.registry import traits_of
from touchline.backends.traits import DataUse
from touchline.core.files import FileCache, open_regular, read_json_object
from touchline.core.finding import Finding, Severity
from touchline.core.json_text import parse_json
from touchline.experiment.document import Key
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
    columns: frozenset[str]
    """Columns of its first row."""


def data_findings_of(
    training: StatedTraining, document: ForeignDocument, folder: Path, reader: str
) -> Iterator[Finding]:
    """Yield BK025 and BK026: the file has another format, or lacks the field or the columns that the config names.

    Args:
        training: what the config states.
        document: the config.
        folder: folder that its paths start from.
        reader: trainer whose config it is, which reads the data; our own settings name another one as the backend.
    """
    use = traits_of(reader).data_use
    for source in training.sources:
        path = path_of(source.name.value, folder) if source.kind == "file" else None
        if path is not None and path.is_file():
            yield from _format(source, path)
            own = use.loads_by_itself(document, source.name.key.partition(".")[0])
            yield from _field(use, source, path, Severity.WARNING if own else Severity.ERROR)
    yield from _absent_columns(use, document, folder)
    yield from _registered(use, document, folder)


def _format(source: StatedSource, path: Path) -> Iterator[Finding]:
    stated, ending = source.format, path.suffix.lower()
    allowed = None if stated is None else _ENDINGS.get(stated.value)
    if stated is None or stated.is_default or allowed is None or ending in allowed or ending not in _DATA_ENDINGS:
        return
    message = f"{stated.value} is to be read, and {source.name.value} is a {ending} file"
    yield _finding("BK025", stated.key, message, source, hint=_format_of(ending))


def _format_of(ending: str) -> str | None:
    return next((name for name, endings in _ENDINGS.items() if ending in endings), None)


def _field(use: DataUse, source: StatedSource, path: Path, severity: Severity) -> Iterator[Finding]:
    """Yield problems of `field`, the key of the rows in a JSON object."""
    if not use.names_field or path.suffix.lower() != ".json":
        return
    begins = beginning(path)
    if begins is None:
        return
    field = source.field
    if field is not None and begins.keys is None:
        message = f"field: {field.value} is a key of a JSON object, and {source.name.value} is a list of rows"
        yield _finding("BK025", field.key, message, source, "leave field out", severity)
    elif field is not None and begins.keys is not None and field.value not in begins.keys:
        message = f"{source.name.value} has no key {field.value!r}; it has {', '.join(begins.keys[:6])}"
        yield _finding("BK025", field.key, message, source, _field_for(source, begins.keys), severity)
    elif field is None and begins.keys is not None and use.needs_field and begins.columns:
        message = f"the rows of {source.name.value} are under {', '.join(begins.keys[:6])}, and no field is named"
        yield _finding("BK025", source.name.key, message, source, _field_for(source, begins.keys), severity)


def _field_for(source: StatedSource, keys: Sequence[str]) -> str:
    """Return the field that a source means: the key that its split names, else the one that its role is called by."""
    split = None if source.split is None or source.split.is_default else source.split.value.partition("[")[0]
    wanted = _HELD_OUT if source.role == "validation" else _TRAINED_ON
    named = [key for key in (split, *wanted) if key in keys and not (key in _TRAINED_ON and wanted is _HELD_OUT)]
    return f"field: {named[0] if named else keys[0]}"


def _absent_columns(use: DataUse, document: ForeignDocument, folder: Path) -> Iterator[Finding]:
    """Yield columns that a config reads and its file lacks."""
    for read in use.columns(document):
        columns = _columns(read.file, folder, read.field)
        gone = [column for column in read.columns if columns and column not in columns]
        if gone and columns:
            yield _absent(document, read.place, read.file, gone, columns)


def _registered(use: DataUse, document: ForeignDocument, folder: Path) -> Iterator[Finding]:
    """Yield datasets that are not in the registry beside the data."""
    place = use.registry_folder(document)
    home = None if place is None else path_of(place, folder)
    registry = None if home is None or use.registry is None else read_json_object(home / use.registry, _LIMIT)
    if home is not None and registry is not None:
        yield from use.registry_findings(
            document,
            registry,
            is_file=lambda name: path_of(name, home) is not None or path_of(name, folder) is not None,
            is_beside=lambda name: path_of(name, home) is not None,
        )


def _columns(name: str, folder: Path, field: object) -> frozenset[str] | None:
    path = path_of(name, folder)
    if path is None or not path.is_file():
        return None
    begins = beginning(path)
    if begins is None or (begins.keys is not None and field is not None and field not in begins.keys):
        return None
    return begins.columns or None


def _absent(
    document: ForeignDocument, place: tuple[Key, ...], file: str, gone: Sequence[str], columns: frozenset[str]
) -> Finding:
    return Finding(
        code="BK026",
        severity=Severity.ERROR,
        subject=".".join(str(key) for key in place),
        message=f"{file} has no column {', '.join(gone)}; its first row has {', '.join(sorted(columns)[:8])}",
        where=document.where(*place),
    )


def _finding(
    code: str,
    subject: str,
    message: str,
    source: StatedSource,
    hint: str | None = None,
    severity: Severity = Severity.ERROR,
) -> Finding:
    at = source.field if subject.endswith("field") and source.field is not None else source.name
    return Finding(code=code, severity=severity, subject=subject, message=message, where=at.where, hint=hint)


def _beginning(path: Path) -> Beginning | None:
    if path.suffix.lower() not in _ENDINGS["json"]:
        return None
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
            text = file.read(_BEGINNING)
            start = text.lstrip()
            if start.startswith("["):
                row, _ = json.JSONDecoder().raw_decode(start[1:].lstrip())
                return Beginning(None, _names(row))
            first, _, more = start.partition("\n")
            row = _row(first)
            if row is not None and (more.strip() or path.suffix.lower() != ".json"):
                return Beginning(None, _names(row))
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
    return Beginning(tuple(tables), _names(next(iter(tables.values()))[0]))


beginning = FileCache(_beginning, 1 << 30)
"""Return the beginning of a JSON or JSON Lines file; None if it is neither, too large, or unreadable."""


def _row(line: str) -> object:
    try:
        found = parse_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _names(row: object) -> frozenset[str]:
    return frozenset(str(key) for key in row) if isinstance(row, dict) else frozenset()
