"""Further tables of the page: estimates, packing, answers, general ability, checkpoints, storage, attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from touchline.core.units import format_bytes, percent
from touchline.report.colors import CONTROL, SeriesColor
from touchline.report.formatting import metric_words
from touchline.report.page.cells import (
    ROWS_LIMIT,
    Cell,
    Column,
    Notes,
    PageTable,
    TableRow,
    plain,
    table_of,
)
from touchline.report.page.runs import all_checkpoints, checkpoint_words
from touchline.report.report import Report
from touchline.results.verification_types import MissingCheckpoint, VerifiedCheckpoint

Inks = Mapping[str, SeriesColor]
Row = TypeVar("Row")


def _first(rows: Sequence[Row], heed: Callable[[Row], bool]) -> Sequence[Row]:
    """Return the rows. If not all can be shown, the important ones come first."""
    return rows if len(rows) <= ROWS_LIMIT else sorted(rows, key=lambda row: not heed(row))


def _wrong(each: VerifiedCheckpoint | MissingCheckpoint) -> bool:
    return not each.expected if isinstance(each, MissingCheckpoint) else not each.sound


def _run(name: str, inks: Inks) -> Cell:
    return Cell(text=name, ink=inks.get(name, CONTROL).number)


def answers(report: Report, inks: Inks) -> PageTable | None:
    """Return the counts of suspicious answers, independent of their scores."""
    notes = Notes()
    not_recorded = "not recorded"
    rows = [
        TableRow(
            run=each.run,
            cells=(
                _run(each.run, inks),
                plain(each.task),
                plain(each.checkpoint),
                plain(f"{each.answers:,}", each.answers),
                _bad(each.empty),
                notes.missing(not_recorded) if each.cut is None else _bad(each.cut),
                _bad(each.errors),
                notes.missing("this task does not parse")
                if each.parsed is None
                else plain(percent(each.parsed / each.answers) if each.answers else "–", each.parsed),
            ),
        )
        for each in report.answers
    ]
    columns = (
        Column(label="Run"),
        Column(label="Task"),
        Column(label="Checkpoint"),
        Column(label="Answers", numeric=True),
        Column(label="Empty", numeric=True),
        Column(label="Cut", numeric=True, title="Ended by the token limit"),
        Column(label="Errors", numeric=True, title="Not generated; counted as wrong"),
        Column(label="Parsed", numeric=True, title="An answer could be read from them"),
    )
    return table_of(columns, rows, notes)


def _bad(number: int) -> Cell:
    return Cell(text=f"{number:,}", sort=number, kind="warn" if number else "")


def general(report: Report, inks: Inks) -> PageTable | None:
    """Return the changes of general ability."""
    notes = Notes()
    rows = [
        TableRow(
            run=each.run,
            cells=(
                _run(each.run, inks),
                plain(each.task),
                plain(metric_words(each)),
                notes.measured(each.score, interval=True),
                notes.measured(each.change, interval=True),
            ),
        )
        for each in report.general
    ]
    columns = (
        Column(label="Run"),
        Column(label="Task"),
        Column(label="Metric"),
        Column(label="Score", numeric=True),
        Column(label="Change against the control", numeric=True),
    )
    return table_of(columns, rows, notes)


def checkpoints(report: Report, inks: Inks) -> PageTable | None:
    """Return every verified checkpoint, and the missing ones."""
    rows = []
    for each in _first(all_checkpoints(report), _wrong):
        if isinstance(each, MissingCheckpoint):
            facts = [plain("–", "")] * 5
            kind = "quiet" if each.expected else "bad"
        else:
            facts = [
                plain(each.kind.value),
                plain("–" if each.rank is None else str(each.rank), each.rank or 0),
                plain("–" if each.tensors is None else f"{each.tensors:,}", each.tensors or 0),
                plain(each.dtype or "–"),
                plain(format_bytes(each.size_bytes), each.size_bytes),
            ]
            kind = "good" if each.sound else "bad"
        verdict = Cell(text=checkpoint_words(each), kind=kind)
        rows.append(TableRow(run=each.run, cells=(_run(each.run, inks), plain(each.name), verdict, *facts)))
    columns = (
        Column(label="Run"),
        Column(label="Checkpoint"),
        Column(label="Verdict"),
        Column(label="Holds"),
        Column(label="Rank", numeric=True),
        Column(label="Tensors", numeric=True),
        Column(label="Type"),
        Column(label="Size", numeric=True),
    )
    return table_of(columns, rows)
