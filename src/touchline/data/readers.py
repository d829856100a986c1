"""Reader of dataset files with line numbers: JSON, JSONL, CSV, parquet; and the count of problems of their rows."""

from __future__ import annotations

import csv
import importlib.util
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.errors import HostError, InputError, install_hint, quoted
from touchline.core.files import open_regular, read_bytes
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import has_half_characters, parse_json
from touchline.core.near import did_you_mean, near_names

_SHOWN = 5


@dataclass(slots=True)
class _Kind:
    hint: str | None
    count: int = 0
    lines: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    column: int | None = None
    splits: dict[str, int] = field(default_factory=dict)


class Tally:
    """Collector of the problems of one file's rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def add(
        self,
        code: str,
        subject: str,
        message: str,
        *,
        line: int | None = None,
        column: int | None = None,
        row: int | None = None,
        hint: str | None = None,
        split: str | None = None,
    ) -> None:
        """Count a problem. The first few places of each kind are kept."""
        kind = self._kinds.setdefault((code, subject, message), _Kind(hint=hint))
        if kind.count == 0:
            kind.column = column
        kind.count += 1
        if split is not None:
            kind.splits[split] = kind.splits.get(split, 0) + 1
            if len(kind.splits) > 1:
                # Lines are of the file, rows of the first split.
                row = None
        for kept, place in ((kind.lines, line), (kind.rows, row)):
            if place is not None and len(kept) < _SHOWN:
                kept.append(place)

    def findings(self) -> list[Finding]:
        """Return one error per kind, in order of first occurrence."""
        return [self._finding(code, subject, message, kind) for (code, subject, message), kind in self._kinds.items()]

    def _finding(self, code: str, subject: str, message: str, kind: _Kind) -> Finding:
        message = f"{', '.join(kind.splits)}: {message}" if kind.splits else message
        message += _places(kind)
        where = Location(path=str(self._path), line=kind.lines[0] if kind.lines else None, column=kind.column)
        return Finding(
            code=code, severity=Severity.ERROR, subject=subject, message=message, where=where, hint=kind.hint
        )


def _places(kind: _Kind) -> str:
    word, places = ("line", kind.lines) if kind.lines else ("row", kind.rows)
    more = ", ..." if kind.count > len(places) else ""
    if len(kind.splits) > 1:
        counts = ", ".join(f"{count:,} in {split}" for split, count in kind.splits.items())
        first = f", first {word} {places[0]}" if places else ""
        return f" ({kind.count:,} times: {counts}{first})"
    if kind.count > 1 and places:
        return f" ({kind.count:,} times: {word}s {', '.join(map(str, places))}{more})"
    return f" (row {kind.rows[0]})" if kind.rows and not kind.lines else ""


SIZE_LIMIT_BYTES = 1 << 30
"""Size limit of a file that is read as a whole."""
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Split names in files, in lower case, and their standard names."""
FORMATS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
WHOLE = "all"
"""Name of the only split of a file without splits."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """Row with its line in the file."""

    values: Mapping[str, object]
    line: int | None
    """First line of the row, from 1. None in formats without lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawDataset:
    """Rows of a file by split."""

    format: str
    splits: dict[str, list[SourceRow]]
    """Rows by split name; one entry `all` if the file has no splits."""
    about: dict[str, object]
    findings: tuple[Finding, ...]


def read_rows(path: Path) -> RawDataset:
    """Read a file.

    Raises:
        InputError: it is too large, of an unknown format or not readable as that; with findings.
        HostError: the package that reads its format is not installed, or the file may not be read.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        message = f"{path.name} has an unknown ending, expected one of {', '.join(FORMATS)}"
        raise _fault("DA102", path, message, _ending_hint(path))
    size = path.stat().st_size
    if size > SIZE_LIMIT_BYTES:
        raise _fault("DA102", path, f"{path.name} has {size:,} bytes, at most {SIZE_LIMIT_BYTES:,} are read")
    try:
        if form == "json":
            return _json(path)
        tally = Tally(path)
        if form == "parquet":
            rows = list(_parquet(path))
        else:
            rows = list(_jsonl(path, tally)) if form == "jsonl" else _csv(path, tally)
    except PermissionError:
        raise HostError(f"no permission to read {str(path)!r}", hint=f"ls -l {quoted(str(path))}") from None
    splits = _grouped(rows, path, tally)
    return RawDataset(format=form, splits=splits, about={}, findings=tuple(tally.findings()))


def _json(path: Path) -> RawDataset:
    try:
        data = parse_json(read_bytes(path).decode("utf-8-sig"), allow_half_characters=True)
    except UnicodeDecodeError as error:
        raise _fault("DA102", path, f"{path.name} is not UTF-8 text (byte {error.start})", _UTF8) from None
    except json.JSONDecodeError as error:
        # One object per line in a file named .json: common, and easy to recognize.
        hint = "rename the file to .jsonl if it has one row per line" if error.msg == "Extra data" else None
        raise _fault("DA102", path, f"{path.name} is not JSON: {error.msg}", hint, error.lineno, error.colno) from None
    except (ValueError, RecursionError) as error:
        raise _fault("DA102", path, f"{path.name} is not JSON: {error}") from None
    if isinstance(data, list):
        data = {WHOLE: data}
    if not isinstance(data, dict):
        message = f"{path.name} is neither a list of rows nor an object of splits, expected {{train: [...], ...}}"
        raise _fault("DA102", path, message)
    about = data.pop("about", {})
    tally = Tally(path)
    splits = _json_splits(data, path, tally)
    about = about if isinstance(about, dict) else {}
    return RawDataset(format="json", splits=splits, about=about, findings=tuple(tally.findings()))


def _json_splits(data: dict[str, object], path: Path, tally: Tally) -> dict[str, list[SourceRow]]:
    splits: dict[str, list[SourceRow]] = {}
    for name, rows in data.items():
        split = WHOLE if name == WHOLE and len(data) == 1 else SPLIT_NAMES.get(name.lower())
        if split is None:
            near = near_names(name.lower(), SPLIT_NAMES, most=1)
            if isinstance(rows, list):
                hint = did_you_mean(near, "write a file without splits as a list of rows: [...]")
            else:
                hint = "write a list with one object per row, {column: value}"
            tally.add("DA103", path.name, f"{name!r} is not a split, expected train, validation or test", hint=hint)
        elif split in splits:
            tally.add("DA103", path.name, f"the split {split} is given twice, the second time as {name!r}")
        elif not isinstance(rows, list):
            tally.add("DA103", path.name, f"the split {name} is not a list of rows")
        else:
            splits[split] = []
            for number, row in enumerate(rows, 1):
                if isinstance(row, dict) and _names_fit(row):
                    splits[split].append(SourceRow(row, None))
                elif isinstance(row, dict):
                    tally.add("DA102", path.name, f"{name}: {_HALF_NAME}", row=number)
                else:
                    tally.add("DA103", path.name, f"{name}: not an object, expected {{column: value}}", row=number)
    return splits


_UTF8 = "save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
_PACKED = {".gz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k", ".zst": "unzstd", ".zip": "unzip"}
"""Suffixes of compressed files, and the commands that decompress them."""
_SHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def _ending_hint(path: Path) -> str | None:
    ending = path.suffix.lower()
    if ending in _PACKED:
        return f"{_PACKED[ending]} {shlex.quote(str(path))}"
    if ending in _SHEETS:
        return "save the sheet as CSV UTF-8, with commas"
    return "save it as CSV with commas" if ending in (".tsv", ".tab") else None


def _lines(path: Path, tally: Tally) -> Iterator[str]:
    """Yield lines as text. Bytes that are not UTF-8 are replaced and reported."""
    with open_regular(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                tally.add("DA102", path.name, "not UTF-8 text", line=number, column=error.start + 1, hint=_UTF8)
                yield line.decode(errors="replace")


_HALF_NAME = "a column name contains half of a surrogate pair"


def _names_fit(row: dict[str, object]) -> bool:
    return not any(has_half_characters(name) for name in row)


def _jsonl(path: Path, tally: Tally) -> Iterator[SourceRow]:
    for number, line in enumerate(_lines(path, tally), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, allow_half_characters=True)
        except json.JSONDecodeError as error:
            tally.add("DA102", path.name, f"not JSON: {error.msg}", line=number, column=error.colno)
            continue
        except (ValueError, RecursionError) as error:
            tally.add("DA102", path.name, f"not JSON: {error}", line=number)
            continue
        if isinstance(row, dict) and _names_fit(row):
            yield SourceRow(row, number)
        elif isinstance(row, dict):
            tally.add("DA102", path.name, _HALF_NAME, line=number)
        else:
            hint = "rename the file to .json if it is one list of rows" if isinstance(row, list) else None
            tally.add("DA103", path.name, "not an object, expected {column: value}", line=number, hint=hint)


def separator_hint(columns: Sequence[str]) -> str | None:
    """Return a hint if the only column's name looks like several with another separator than commas."""
    separator = next((each for each in (";", "\t", "|") if len(columns) == 1 and each in columns[0]), None)
    return None if separator is None else f"the cells seem to be separated by {separator!r}, expected commas"


def _csv(path: Path, tally: Tally) -> list[SourceRow]:
    rows: list[SourceRow] = []
    # A cell may hold a whole chat; the module's own limit of 128 KiB is for the whole process, so it is put back.
    usual = csv.field_size_limit(SIZE_LIMIT_BYTES)
    reader = csv.reader(_lines(path, tally), strict=True)
    try:
        header = next(reader, [])
        for name in {name for name in header if header.count(name) > 1}:
            tally.add("DA103", path.name, f"the column {name!r} is given twice", line=1)
        begin = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                rows.append(SourceRow(dict(zip(header, cells, strict=True)), begin))
            elif cells:
                columns = "1 column" if len(header) == 1 else f"{len(header)} columns"
                message = f"a different number of cells than the {columns} of the first line"
                hint = separator_hint(header) or "put a cell that contains a comma in double quotes"
                tally.add("DA103", path.name, message, line=begin, hint=hint)
            begin = reader.line_num + 1
    except csv.Error as error:
        # The module's own words for a lone carriage return name a mode of Python.
        message = "a line ends in the middle of a cell" if "new-line" in str(error) else str(error)
        tally.add("DA102", path.name, f"not CSV: {message}", line=reader.line_num)
    finally:
        csv.field_size_limit(usual)
    return rows


def _parquet(path: Path) -> Iterator[SourceRow]:
    if importlib.util.find_spec("pyarrow") is None:
        hint = install_hint("parquet")
        raise HostError(f"reading {path.name} needs the package pyarrow, which is not installed", hint=hint)
    import pyarrow
    import pyarrow.parquet

    try:
        with open_regular(path) as stream, pyarrow.parquet.ParquetFile(stream) as file:
            groups = range(file.metadata.num_row_groups)
            unpacked = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            if unpacked > SIZE_LIMIT_BYTES:
                message = f"{path.name} unpacks to {unpacked:,} bytes, at most {SIZE_LIMIT_BYTES:,} are read"
                raise _fault("DA102", path, message)
            for batch in file.iter_batches():
                yield from (SourceRow(values, None) for values in batch.to_pylist())
    except PermissionError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise _fault("DA102", path, f"{path.name} is not parquet: {error}", "check that the file is complete") from None


def _grouped(rows: list[SourceRow], path: Path, tally: Tally) -> dict[str, list[SourceRow]]:
    """Group rows by the column `split`, if it names splits."""
    names = [str(row.values.get("split", "")) for row in rows]
    known = [SPLIT_NAMES.get(name.lower()) for name in names]
    if not any(known):
        return {WHOLE: rows}
    splits: dict[str, list[SourceRow]] = {}
    for row, name, split in zip(rows, names, known, strict=True):
        if split is None:
            # A new random split of such a file would mix its test rows into the training.
            message = f"column 'split' is {name[:40]!r}, expected train, validation or test as in other rows"
            tally.add("DA103", path.name, message, line=row.line)
        else:
            splits.setdefault(split, []).append(row)
    return splits


def _fault(
    code: str, path: Path, message: str, hint: str | None = None, line: int | None = None, column: int | None = None
) -> InputError:
    where = Location(path=str(path), line=line, column=column)
    finding = Finding(code=code, severity=Severity.ERROR, subject=path.name, message=message, where=where, hint=hint)
    return InputError(f"{str(path)!r} cannot be read", findings=[finding])
