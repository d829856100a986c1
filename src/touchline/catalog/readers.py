"""Files of rows to rows with their line numbers: JSON, JSONL, CSV, parquet."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from touchline.domain.finding import Finding, Severity, Where
from touchline.errors import EnvironmentFault, InputFault

SIZE_LIMIT_BYTES = 4 << 30
"""More does not belong into one file that is read whole."""
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "test": "test"}
FORMATS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its line in the file."""

    values: Mapping[str, object]
    """Column to value."""
    line: int | None
    """Line, from 1; none in formats without lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawDataset:
    """A file's rows, by split as far as the file has splits."""

    format: str
    """`json`, `jsonl`, `csv` or `parquet`."""
    splits: dict[str, list[Row]]
    """Rows by the split's name; one entry, `all`, when the file has none."""
    about: dict[str, object]
    """What the file says of itself."""
    findings: tuple[Finding, ...]
    """Lines that are no rows."""


def read_rows(path: Path) -> RawDataset:
    """Read a file.

    Raises:
        InputFault: it is missing, too large, of an unknown format or not readable as that.
        EnvironmentFault: the package that reads its format is not installed.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise _fault(path, f"{path.name} has an unknown ending", f"one of {', '.join(FORMATS)}")
    if path.stat().st_size > SIZE_LIMIT_BYTES:
        raise _fault(path, f"{path.name} is larger than {SIZE_LIMIT_BYTES:,} bytes", "a smaller file")
    try:
        if form == "json":
            return _json(path)
        if form == "parquet":
            return RawDataset(format=form, splits=_grouped([Row(row, None) for row in _parquet(path)]), about={}, findings=())
        findings: list[Finding] = []
        rows = list(_jsonl(path, findings) if form == "jsonl" else _csv(path, findings))
        return RawDataset(format=form, splits=_grouped(rows), about={}, findings=tuple(findings))
    except UnicodeDecodeError as error:
        raise _fault(path, f"{path.name} is not UTF-8 text (byte {error.start})", "a text file in UTF-8") from None


def _json(path: Path) -> RawDataset:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        line, column = getattr(error, "lineno", None), getattr(error, "colno", None)
        finding = _error("DA102", path, f"{path.name} is not JSON: {getattr(error, 'msg', error)}", line, column)
        raise InputFault(f"{path} cannot be read", findings=[finding]) from None
    if isinstance(data, list):
        data = {"all": data}
    if not isinstance(data, dict):
        raise _fault(path, f"{path.name} holds neither a list of rows nor an object of splits", "a list of {column: value} objects")
    about = data.pop("about", {})
    splits: dict[str, list[Row]] = {}
    findings: list[Finding] = []
    for name, rows in data.items():
        split = "all" if name == "all" and len(data) == 1 else SPLIT_NAMES.get(name.lower())
        if split is None:
            findings.append(_error("DA103", path, f"{name!r} is not the name of a split; expected train, validation or test"))
        elif split in splits:
            findings.append(_error("DA103", path, f"the split {split} is given twice"))
        elif not isinstance(rows, list):
            findings.append(_error("DA103", path, f"the split {name} is not a list of rows"))
        else:
            wrong = [i for i, row in enumerate(rows) if not isinstance(row, dict)]
            if wrong:
                findings.append(_error("DA103", path, f"{name}: {len(wrong)} rows are not objects, the first is row {wrong[0]}"))
            splits[split] = [Row(row, None) for row in rows if isinstance(row, dict)]
    return RawDataset(format="json", splits=splits, about=about if isinstance(about, dict) else {}, findings=tuple(findings))


def _jsonl(path: Path, findings: list[Finding]) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                findings.append(_error("DA102", path, f"not JSON: {getattr(error, 'msg', error)}", number, getattr(error, "colno", None)))
                continue
            if isinstance(row, dict):
                yield Row(row, number)
            else:
                findings.append(_error("DA103", path, "the row is not an object", number))


def _csv(path: Path, findings: list[Finding]) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    columns = len(reader.fieldnames or ())
                    findings.append(_error("DA103", path, f"the row has another number of cells than the {columns} columns", reader.line_num))
                else:
                    yield Row(row, reader.line_num)
        except csv.Error as error:
            findings.append(_error("DA102", path, f"not CSV: {error}", reader.line_num))


def _parquet(path: Path) -> list[dict[str, object]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise EnvironmentFault(f"{path.name} needs a package that is not installed", hint="pip install 'touchline[parquet]'")
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, object]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise _fault(path, f"{path.name} is not parquet: {error}", "a whole parquet file") from None
    return rows


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    """By the column `split`, where every row has one that names a split."""
    if not rows or not all(str(row.values.get("split", "")).lower() in SPLIT_NAMES for row in rows):
        return {"all": rows}
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(SPLIT_NAMES[str(row.values["split"]).lower()], []).append(row)
    return splits


def _fault(path: Path, message: str, expected: str) -> InputFault:
    return InputFault(f"{path} cannot be read", findings=[_error("DA101", path, f"{message}; expected {expected}")])


def _error(code: str, path: Path, message: str, line: int | None = None, column: int | None = None) -> Finding:
    where = Where(path=str(path), line=line, column=column)
    return Finding(code=code, severity=Severity.ERROR, subject=path.name, message=message, where=where)
