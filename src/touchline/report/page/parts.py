"""Parts of the page: tables, data of the sample browser, and JSON, scripts and colors that are not parsed as markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from touchline.core.quantity import Missing, Quantity, finite
from touchline.core.table import Cell, Column, Mark, Table, Value, provenance, value_text
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.report.colors import CONTROL, GRID, INK, MUTED, WHITE, SeriesColor
from touchline.report.facts import is_asked_about
from touchline.report.report import Report
from touchline.results.run_result import RunResult

ROWS_LIMIT = 400  # Maximum number of rows of a table. The table of all runs has no limit
_SHADES = 8
_OPEN_ROWS = 12  # Tables of at most so many rows are open when the page is loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class PageCell:
    """Cell of a table."""

    text: str
    sort: float | str | None = None
    """Sort key; the text if None."""
    title: str = ""
    ink: int | None = None
    """Number of the color before the text; None for most cells."""
    kind: str = ""
    note: int | None = None
    """Number of the note below the table that explains a missing value."""
    below: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRow:
    """Row of a table."""

    cells: tuple[PageCell, ...]
    run: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """Table of the page."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[PageRow, ...]
    notes: tuple[str, ...]
    reasons: tuple[str, ...]
    """Reasons for missing values, by number from 1."""
    more: int
    is_open: bool
    is_shaded: bool


@dataclass(kw_only=True, slots=True)
class _Reasons:
    found: list[str] = field(default_factory=list)

    def missing(self, reason: str) -> PageCell:
        """Return an empty cell with the number of its reason."""
        if reason not in self.found:
            self.found.append(reason)
        return PageCell(text="n/a", title=reason, kind=Mark.QUIET, note=self.found.index(reason) + 1)


def page_table(
    table: Table | None, colors: Mapping[str, SeriesColor] | None = None, limit: int | None = ROWS_LIMIT
) -> PageTable | None:
    """Return a table of the report for the page."""
    if table is None:
        return None
    reasons = _Reasons()
    rows = []
    for values in table.rows[:limit]:
        cells = [_cell(value, column, reasons) for value, column in zip(values, table.columns, strict=True)]
        run = cells[0].text if table.by_run else None
        if run is not None:
            cells[0] = PageCell(text=run, title=cells[0].title, ink=(colors or {}).get(run, CONTROL).number)
        rows.append(PageRow(run=run, cells=tuple(cells)))
    return PageTable(
        title=table.title,
        columns=table.columns,
        rows=tuple(rows),
        notes=table.notes,
        reasons=tuple(reasons.found),
        more=len(table.rows) - len(rows),
        is_open=len(table.rows) <= _OPEN_ROWS,
        is_shaded=any(isinstance(value, Cell) and value.shade is not None for row in table.rows for value in row),
    )


def heading(label: str) -> str:
    """Return a label with a capital letter; symbols such as `t`, `df` and `p (Holm)` stay."""
    return label if len(label.split(" ")[0]) < 3 else label[:1].upper() + label[1:]


def _cell(value: Value, column: Column, reasons: _Reasons) -> PageCell:
    match value:
        case None:
            return PageCell(text="–", sort="")
        case str():
            return PageCell(text=value or "–")
        case int():
            return PageCell(text=f"{value:,}", sort=value)
        case Cell():
            kind: str = value.mark or ""
            if value.shade is not None:
                kind = f"{'hit' if value.shade > 0 else 'miss'} h{round(_SHADES * abs(value.shade))}"
            return PageCell(text=value.text, sort=value.value, title=value.note, kind=kind, below=value.interval)
        case Quantity() | Missing():
            known = finite(value)
            if isinstance(known, Missing):
                return reasons.missing(known.missing)
            return PageCell(text=value_text(known, column), sort=known.value, title=provenance(known))


_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_TOKENS = {INK: "ink", MUTED: "muted", GRID: "grid", WHITE: "card"}
"""Colors of the figures that the page sets, by the name of the CSS variable."""
_LIGHT = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "paper": WHITE,
    "card": "#f6f8fa",
    "rule": "#dfe3e8",
    "mark": "#fff4d6",
    "good": "#0b6e4f",
    "bad": "#b3261e",
    "warn": "#c77700",
    "link": "#0a58a8",
}
_DARK = {
    "ink": "#e6e9ee",
    "muted": "#a2abb8",
    "grid": "#323944",
    "paper": "#12161c",
    "card": "#1a2028",
    "rule": "#323944",
    "mark": "#3a3320",
    "good": "#6fd3ad",
    "bad": "#ff9a90",
    "warn": "#f2b04a",
    "link": "#84bcff",
}


def embedded_json(value: object) -> Markup:
    """Return JSON that cannot end its script element, for any model output."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_escaped(text))  # noqa: S704


def embedded_spec(spec: dict[str, object], inks: Sequence[SeriesColor]) -> Markup:
    """Return a figure's spec with the page's color variables, which differ for dark mode and print."""
    text = json.dumps(spec, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    names = _TOKENS | {ink.light: f"k{ink.number}" for ink in inks}
    for colour, name in names.items():
        text = text.replace(f'"{colour}"', f'"var(--{name})"')
    return Markup(_escaped(text))  # noqa: S704


def inlined(code: str, tag: str) -> tuple[Markup, str]:
    """Return a script or style as an element of the page, and its hash for the content security policy."""
    text = code.replace("\r\n", "\n").replace("\r", "\n").replace(f"</{tag}", f"<\\/{tag}").replace("<!--", "<\\!--")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"  # noqa: S704


def colours(inks: Sequence[SeriesColor]) -> str:
    """Return the color variables for light and dark mode. Print is always light."""
    light = _LIGHT | {f"k{ink.number}": ink.light for ink in inks}
    dark = _DARK | {f"k{ink.number}": ink.dark for ink in inks}
    classes = "".join(f".k{ink.number}{{--own:var(--k{ink.number})}}" for ink in inks)
    return (
        f":root{{color-scheme:light;{_variables(light)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{_variables(dark)}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{_variables(dark)}}}}}\n{classes}\n"
    )


def _variables(values: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in values.items())


def _escaped(text: str) -> str:
    for char, escape in _UNSAFE.items():
        text = text.replace(char, escape)
    return text


BUDGET_CHARS = 420_000  # Budget of all items together, as JSON. A page of 2 MB also holds the drawing program
MISSED_SHARE = 0.2  # Share of the budget for items that every run misses
OUTPUT_CHARS = 320  # Maximum length of one answer. The full one is in samples.jsonl
QUESTION_CHARS = 2_000  # Maximum length of one question. The full one is in samples.jsonl, with the prompt
_RIGHT = 0.5  # Score from which an answer counts as right, if scores are not binary


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    run: int
    text: str
    score: float


@dataclass(kw_only=True, slots=True)
class _Item:
    id: str
    target: str
    question: str = ""
    answers: list[_Answer] = field(default_factory=list)

    @property
    def right(self) -> int:
        return sum(answer.score >= _RIGHT for answer in self.answers)

    @property
    def differs(self) -> bool:
        return len({answer.score for answer in self.answers}) > 1


def browser_data(report: Report, sample_file: str) -> dict[str, object] | None:
    """Return the data of the page's script. None if fewer than two runs were evaluated."""
    evaluated = [(run, record) for run in report.runs if (record := _record(report, run)) is not None]
    if len(evaluated) < 2:
        return None
    items = _items(report, evaluated)
    controls = {facts.run: facts.control for facts in report.facts}
    names = [run.name for run, _ in evaluated]
    differing = [item for item in items if item.differs]
    # Items that half of the runs get right are the most informative.
    differing.sort(key=lambda item: abs(2 * item.right / len(item.answers) - 1))
    missed = [item for item in items if item.right == 0 and not item.differs]
    kept, left = _within(differing, len(names), BUDGET_CHARS * (1 - MISSED_SHARE))
    kept_missed, left_missed = _within(missed, len(names), BUDGET_CHARS * MISSED_SHARE)
    return {
        "runs": names,
        "first": _best(report, names),
        "controls": [names.index(c) if (c := controls.get(name)) in names else None for name in names],
        "checkpoints": [record.checkpoint for _, record in evaluated],
        "task": evaluated[0][1].label,
        "items": [_packed(item, len(names)) for item in items if id(item) in kept | kept_missed],
        "total": len(items),
        "differing": len(differing),
        "missed": len(missed),
        "omitted": left,
        "omitted_missed": left_missed,
        "file": sample_file,
    }


def _record(report: Report, run: RunResult) -> EvaluationRecord | None:
    """Return the evaluation that the report's scores come from."""
    checkpoint = report.analyses[0].checkpoints.get(run.name) if report.analyses else None
    own = [record for record in run.evaluations if record.samples]
    return next((record for record in own if record.checkpoint == checkpoint), own[-1] if own else None)


def _best(report: Report, names: Sequence[str]) -> int:
    asked = {run.name for run in report.runs if is_asked_about(run)}
    scores = report.analyses[0].scores if report.analyses else ()
    known = [score for score in scores if score.run in names and score.run in asked]
    best = max(known, key=lambda score: score.value, default=None)
    return 0 if best is None else names.index(best.run)


def _items(report: Report, evaluated: Sequence[tuple[RunResult, EvaluationRecord]]) -> list[_Item]:
    """Return the items in the order of the first run that has them. Other data makes another item of the same id."""
    found: dict[tuple[str, str], _Item] = {}
    for number, (_, record) in enumerate(evaluated):
        asked = report.asked.get(record.asked_key, {})
        for samples in _repeats(record).values():
            first = samples[0]
            item = found.setdefault((record.data_sha256, first.id), _Item(id=first.id, target=first.target))
            score = sum(sample.score for sample in samples) / len(samples)
            if not item.question and (own := asked.get(first.id)) is not None:
                item.question = own.question
            item.answers.append(_Answer(run=number, text=_text(samples), score=round(score, 4)))
    return list(found.values())


def _repeats(record: EvaluationRecord) -> dict[str, list[SampleScore]]:
    made: dict[str, list[SampleScore]] = {}
    for sample in record.samples:
        made.setdefault(sample.id, []).append(sample)
    return made


def _text(samples: Sequence[SampleScore]) -> str:
    first = samples[0]
    text = first.output if first.error is None else f"[not generated: {first.error}]"
    more = f"\n[first of {len(samples)} answers]" if len(samples) > 1 else ""
    return _cut(text) + more


def _cut(text: str, limit: int = OUTPUT_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text):,} characters]"


def _within(items: Sequence[_Item], runs: int, budget: float) -> tuple[set[int], int]:
    kept: set[int] = set()
    for item in items:
        budget -= len(json.dumps(_packed(item, runs), ensure_ascii=False, separators=(",", ":")))
        if budget < 0:
            break
        kept.add(id(item))
    return kept, len(items) - len(kept)


def _packed(item: _Item, runs: int) -> list[object]:
    """Return [id, question, target, [[answer, score, runs], ...]]. Equal answers are merged, the commonest first.

    If every run had the item, the runs of the commonest answer are omitted, since they are the rest.
    """
    groups: dict[tuple[str, float], list[int]] = {}
    for answer in item.answers:
        groups.setdefault((answer.text, answer.score), []).append(answer.run)
    ordered = sorted(groups.items(), key=lambda each: -len(each[1]))
    whole = len(item.answers) == runs
    rest = [[text, score, None if whole and place == 0 else own] for place, ((text, score), own) in enumerate(ordered)]
    return [_cut(item.id), _cut(item.question, QUESTION_CHARS), _cut(item.target), rest]
