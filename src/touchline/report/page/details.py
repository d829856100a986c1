"""The other tables of the page: estimates, packing, answers, general ability, checkpoints, storage, attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from touchline.core.units import format_bytes
from touchline.plan.settings import HEADER as SETTING_HEADER
from touchline.plan.settings import setting_cells, varying_table
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
from touchline.report.tests import HEADER, NUMERIC, seed_test_rows
from touchline.results.verification_types import MissingCheckpoint, VerifiedCheckpoint

Inks = Mapping[str, SeriesColor]
Row = TypeVar("Row")


def _first(rows: Sequence[Row], heed: Callable[[Row], bool]) -> Sequence[Row]:
    """The rows as they are; where not all can be shown, those to be heeded come first."""
    return rows if len(rows) <= ROWS_LIMIT else sorted(rows, key=lambda row: not heed(row))


def _wrong(each: VerifiedCheckpoint | MissingCheckpoint) -> bool:
    return not each.expected if isinstance(each, MissingCheckpoint) else not each.sound


def _run(name: str, inks: Inks) -> Cell:
    return Cell(text=name, ink=inks.get(name, CONTROL).number)


def seed_tests(report: Report, inks: Inks) -> PageTable | None:
    """The tests over training seeds."""
    del inks
    columns = [Column(label=_title(name), numeric=place in NUMERIC) for place, name in enumerate(HEADER)]
    return table_of(columns, [TableRow(cells=tuple(map(plain, row))) for row in seed_test_rows(report)])


def _title(name: str) -> str:
    return name if name in ("t", "df", "p") else name[:1].upper() + name[1:]


def estimates(report: Report, inks: Inks) -> PageTable | None:
    """Estimate against actual, figure by figure."""
    notes = Notes()
    words = {True: ("inside", "good"), False: ("outside", "bad"), None: ("–", "")}
    rows = [
        TableRow(
            run=each.run,
            cells=(
                _run(each.run, inks),
                plain(each.quantity),
                notes.measured(each.predicted, interval=True),
                notes.measured(each.measured),
                Cell(text=words[each.inside][0], kind=words[each.inside][1]),
            ),
        )
        for each in _first(report.estimates, lambda each: each.inside is False)
    ]
    columns = (
        Column(label="Run"),
        Column(label="Figure"),
        Column(label="Predicted", numeric=True),
        Column(label="Measured", numeric=True),
        Column(label="Interval"),
    )
    return table_of(columns, rows, notes)


def settings(report: Report, inks: Inks) -> PageTable | None:
    """Every setting, given or default."""
    del inks
    rows = [TableRow(cells=tuple(map(plain, cells))) for cells in setting_cells(report.settings)]
    return table_of([Column(label=label.capitalize()) for label in SETTING_HEADER], rows)


def varying(report: Report, inks: Inks) -> PageTable | None:
    """By run, the settings that vary."""
    header, cells = varying_table(report.settings, [run.name for run in report.runs])
    rows = [TableRow(run=run, cells=(_run(run, inks), *map(plain, values))) for run, *values in cells]
    return table_of([Column(label=label) for label in ("Run", *header[1:])], rows)


def packing(report: Report, inks: Inks) -> PageTable | None:
    """How examples lay in rows."""
    notes = Notes()
    rows = [
        TableRow(
            run=each.run,
            cells=(
                _run(each.run, inks),
                plain(each.packed),
                notes.measured(each.density),
                notes.measured(each.efficiency),
                notes.measured(each.examples_per_second),
                notes.measured(each.peak_memory),
                plain(each.reason),
            ),
        )
        for each in report.packing
    ]
    columns = (
        Column(label="Run"),
        Column(label="Packed"),
        Column(label="Examples per sequence", numeric=True),
        Column(label="Efficiency", numeric=True, title="Share of the computed positions that hold a token"),
        Column(label="Examples/s", numeric=True),
        Column(label="Peak memory", numeric=True),
        Column(label="Why"),
    )
    return table_of(columns, rows, notes)


def answers(report: Report, inks: Inks) -> PageTable | None:
    """How the answers look, whatever their score."""
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
                else plain(f"{100 * each.parsed / each.answers:.1f} %" if each.answers else "–", each.parsed),
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
    """Whether general ability suffered."""
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
    """Every checkpoint, verified, and those that are not there."""
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


def storage(report: Report, inks: Inks) -> PageTable | None:
    """What each run takes."""
    notes = Notes()
    rows = [
        TableRow(
            run=each.run,
            cells=(
                _run(each.run, inks),
                plain(f"{each.checkpoints:,}", each.checkpoints),
                plain(format_bytes(each.total_bytes), each.total_bytes),
                plain(format_bytes(each.checkpoint_bytes), each.checkpoint_bytes),
                notes.measured(each.adapter_only_bytes),
                notes.measured(each.full_model_bytes),
                notes.measured(each.forecast),
            ),
        )
        for each in report.verification.storage.runs
    ]
    columns = (
        Column(label="Run"),
        Column(label="Checkpoints", numeric=True),
        Column(label="Folder", numeric=True),
        Column(label="Checkpoints' size", numeric=True),
        Column(label="Adapters only", numeric=True),
        Column(label="As full models", numeric=True),
        Column(label="Predicted", numeric=True),
    )
    return table_of(columns, rows, notes)


def sizes(report: Report) -> PageTable | None:
    """Base models, and adapters by rank."""
    notes = Notes()
    found = report.verification.storage
    bases = [
        TableRow(cells=(plain("base model"), plain(name), plain("–", 0), plain("–"), notes.measured(size)))
        for name, size in found.bases.items()
    ]
    adapters = [
        TableRow(
            cells=(
                plain("adapter"),
                plain(each.model),
                plain("–" if each.rank is None else str(each.rank), each.rank or 0),
                plain(each.dtype or "–"),
                plain(format_bytes(each.size_bytes), each.size_bytes),
            )
        )
        for each in found.adapters
    ]
    columns = (
        Column(label="What"),
        Column(label="Model"),
        Column(label="Rank", numeric=True),
        Column(label="Type"),
        Column(label="Size", numeric=True),
    )
    return table_of(columns, [*bases, *adapters], notes)


def deletable(report: Report, inks: Inks) -> PageTable | None:
    """What may go without loss."""
    rows = [
        TableRow(
            run=each.run,
            cells=(
                _run(each.run, inks),
                plain(each.path),
                plain(format_bytes(each.size_bytes), each.size_bytes),
                plain(each.why),
            ),
        )
        for each in report.verification.storage.deletable
    ]
    columns = (Column(label="Run"), Column(label="Path"), Column(label="Size", numeric=True), Column(label="Why"))
    return table_of(columns, rows)


def attempts(report: Report, inks: Inks) -> PageTable | None:
    """Every attempt of the runs that did not end well at the first."""
    notes = Notes()
    rows = [
        TableRow(
            run=run.name,
            cells=(
                _run(run.name, inks),
                plain(each.job_id),
                plain(str(each.restart), each.restart),
                Cell(text=each.state.value + (", superseded" if each.superseded else ""), title=each.reason),
                plain(each.reason),
                notes.measured(each.seconds),
            ),
        )
        for run in report.runs
        if len(run.attempt_list) > 1
        for each in run.attempt_list
    ]
    columns = (
        Column(label="Run"),
        Column(label="Job"),
        Column(label="Restart", numeric=True),
        Column(label="State"),
        Column(label="Why it ended"),
        Column(label="Lasted", numeric=True),
    )
    return table_of(columns, rows, notes)
