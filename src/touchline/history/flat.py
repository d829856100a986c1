"""The facts of a reading or a record, one a row: for tables of every kind."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from touchline.core.quantity import Missing, Quantity
from touchline.history.facts import Fact, read_facts
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord, SourceFile
from touchline.history.records import plain
from touchline.history.scores import ScoreFacts

if TYPE_CHECKING:
    from touchline.history.files import LoggedRun


def facts(value: object, prefix: str = "") -> Iterator[tuple[str, Fact]]:
    """Return every fact under its dotted name, in the order of the fields.

    Of several measurements of one thing each has the name of its kind or unit: `costs.peak_memory.allocated`.
    """
    assert dataclasses.is_dataclass(value)
    for field in dataclasses.fields(value):
        name, part = f"{prefix}{field.name}", getattr(value, field.name)
        if isinstance(part, Quantity | SourcedText | Missing):
            yield name, part
        elif isinstance(part, tuple) and part and all(isinstance(inner, Quantity) for inner in part):
            yield from (
                (f"{name}.{inner.kind or inner.token_unit or number}", inner) for number, inner in enumerate(part)
            )
        elif isinstance(part, tuple) and part and all(isinstance(inner, ScoreFacts) for inner in part):
            yield from ((f"{name}.{inner.task}.{inner.score}", inner.value) for inner in part)
        elif dataclasses.is_dataclass(part) and not isinstance(part, SourceFile):
            yield from facts(part, f"{name}.")


def known(record: RunRecord) -> int:
    """Return the number of facts that are not missing, validation losses included."""
    return sum(not isinstance(fact, Missing) for _, fact in facts(record)) + len(record.validation)


def csv_text(records: Iterable[tuple[str, RunRecord]]) -> str:
    """Return a table with one record per row: each fact in its own column, next to its unit and place."""
    rows = [_cells(id_, record) for id_, record in records]
    header = list(dict.fromkeys(["id", *(name for row in rows for name in row)]))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(cell) for name, cell in row.items()} for row in rows)
    return stream.getvalue()


def jsonl_text(records: Iterable[tuple[str, RunRecord]]) -> str:
    """Return whole records, one per line, each with its id."""
    return "".join(json.dumps({"id": id_, **plain(record)}, separators=(",", ":")) + "\n" for id_, record in records)


def line_of(run: LoggedRun) -> str:
    """Return a run that was read as JSON on one line, in ASCII, which any terminal, pipe and file name can hold."""
    record = run.reading
    known = dict(read_facts(record))
    last = list(known).index("dataset")
    members = {
        "schema_version": 1,
        "name": record.name,
        "files": run.files,
        **dict(list(known.items())[:last]),
        "versions": record.stack.versions,
        "segment_list": record.course.segments,
        "proofs": record.course.proofs,
        "notes": record.notes,
        **dict(list(known.items())[last:]),
        "validation": record.validation,
    }
    return json.dumps({name: plain(each) for name, each in members.items()}, separators=(",", ":"))


def _cells(id_: str, record: RunRecord) -> dict[str, str | float]:
    row: dict[str, str | float] = {
        "id": id_,
        "name": record.name,
        "origin": record.origin,
        "experiment": record.experiment or "",
        "run": record.run or "",
        "task": record.task or "",
        "control": record.control or "",
        "seed": "" if record.seed is None else record.seed,
        "condition": record.condition or "",
        "validations": len(record.validation),
        "fingerprint": record.fingerprint,
        "versions": " ".join(record.stack.versions),
        "sources": " ".join(source.name for source in record.sources),
    }
    for name, fact in facts(record):
        match fact:
            case Quantity():
                row |= {name: fact.value, f"{name}.unit": fact.unit, f"{name}.where": fact.where or ""}
            case SourcedText():
                row[name] = fact.value
            case Missing():
                row[name] = ""
    return row


def _harmless(cell: str | float) -> str | float:
    """Return the text, with a quote before it if a spreadsheet would take it for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
