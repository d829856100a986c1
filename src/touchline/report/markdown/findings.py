"""Three sections of RESULTS.md: key findings with the scores behind them, issues and notes, next steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.finding import Severity
from touchline.core.markup import code, escape, fence
from touchline.core.table import Section, table_markdown
from touchline.report.chart import Chart
from touchline.report.findings.training import COST
from touchline.report.formatting import count, factor_words, join_names
from touchline.report.markup import figures, link, sources
from touchline.report.report import Report, Statement
from touchline.report.tables.scores import scores_section
from touchline.results.report_inputs import Issue

MARKS = {Severity.ERROR: "✗", Severity.WARNING: "⚠", Severity.INFO: "ℹ"}
_ISSUES_TOLD = 12
"""Maximum number of issues per title listed one by one. The rest is counted."""
_ITEMS_CODE = 20


def findings_section(report: Report, charts: Sequence[Chart]) -> Iterator[str]:
    """Yield key findings: the tables of scores, then every sentence under its topic."""
    yield "## Key findings\n"
    yield from section_parts(scores_section(report, brief=True), charts)
    topics: dict[str, list[Statement]] = {}
    for statement in report.findings:
        topics.setdefault(statement.topic, []).append(statement)
    for topic, statements in topics.items():
        yield f"### {_heading(report, topic)}\n"
        yield "\n".join(f"- {escape(each.text)}{sources(each.where)}" for each in statements) + "\n"
        if topic == COST:
            yield from figures(charts, "cost")
    if COST not in topics:
        yield from figures(charts, "cost")


def section_parts(section: Section, charts: Sequence[Chart]) -> Iterator[str]:
    """Yield the parts of a section below its heading, its figures after the first table."""
    yield from (f"{escape(text)}\n" for text in section.paragraphs)
    first, rest = section.tables[:1], section.tables[1:]
    yield from (table_markdown(table) for table in first)
    yield from figures(charts, *section.figures)
    yield from (table_markdown(table) for table in rest)


def _heading(report: Report, topic: str) -> str:
    if topic in report.factors:
        return f"Effect of {escape(factor_words(topic))} ({code(topic)})"
    return escape(topic)


def issues_section(report: Report) -> Iterator[str]:
    """Yield issues and notes, the most severe first, grouped by kind."""
    yield "## Issues and notes\n"
    if not report.issues:
        yield "None.\n"
        return
    kinds: dict[tuple[Severity, str], list[Issue]] = {}
    for issue in report.issues:
        kinds.setdefault((issue.weight, issue.title), []).append(issue)
    for (weight, title), found in kinds.items():
        yield f"### {MARKS[weight]} {escape(title[:1].upper() + title[1:])}\n"
        same: dict[tuple[str, tuple[str, ...], str | None], list[str]] = {}
        for issue in found:
            same.setdefault((issue.text, issue.lines, issue.where), []).append(issue.subject)
        told = [_bullet(subjects, *what) for what, subjects in list(same.items())[:_ISSUES_TOLD]]
        rest = [name for names in list(same.values())[_ISSUES_TOLD:] for name in names]
        if rest:
            told.append(f"- The same of {count(len(rest), 'other')}: {escape(join_names(rest))}\n")
        yield "".join(told)


def _bullet(subjects: Sequence[str], text: str, lines: Sequence[str], where: str | None) -> str:
    """Return the subjects of an issue, its text, its source file, and the lines that prove it."""
    names = ", ".join(code(name) for name in subjects[:_ITEMS_CODE])
    more = f" and {len(subjects) - _ITEMS_CODE:,} more" if len(subjects) > _ITEMS_CODE else ""
    proof = "".join(f"  {line}\n" for line in fence(lines).splitlines()) if lines else ""
    return f"- {names}{more}: {escape(text)}{'' if where is None else f' ({_place(where)})'}\n{proof}"


def _place(where: str) -> str:
    """Return `file:line` as a link to the file."""
    path, colon, line = where.rpartition(":")
    return f"{link(path)}, line {line}" if colon and line.isdigit() else link(where)


def next_steps_section(report: Report) -> Iterator[str]:
    """Yield the numbered next steps."""
    yield "## Next steps\n"
    if not report.next_steps:
        yield "No follow-up needed: all runs are complete and all comparisons conclusive.\n"
        return
    for number, step in enumerate(report.next_steps, 1):
        yield f"### {number}. {escape(step.title)}\n"
        yield f"{escape(step.why)}\n"
        if step.command is not None:
            yield fence([step.command], "bash")
    yield "Commands are those of the experiment's folder.\n"
