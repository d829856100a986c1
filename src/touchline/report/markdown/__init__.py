"""RESULTS.md, section by section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from touchline.core.finding import Severity
from touchline.core.levels import factor_words
from touchline.core.markup import code, escape, fence
from touchline.core.quantity import Measured, Missing, finite
from touchline.core.status import RunStatus
from touchline.core.table import Section, table_markdown
from touchline.core.text import join_names
from touchline.core.units import hours_unit, plural
from touchline.plan.settings import leading_text
from touchline.report.facts import is_failed_exit
from touchline.report.figures import Chart
from touchline.report.formatting import is_at_least
from touchline.report.markdown.appendix import appendix_section, figures, link, sources
from touchline.report.report import Report
from touchline.report.tables.checkpoints import checkpoint_section, storage_section
from touchline.report.tables.runs import runs_table
from touchline.report.tables.scores import scores_section
from touchline.report.tables.training import cost_section, training_section
from touchline.results.report_inputs import Issue
from touchline.statistics.statements import Statement

__all__ = ["results_markdown"]


_DONE = (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)


def results_markdown(report: Report, charts: Sequence[Chart], note: str = "") -> str:
    """Return the text of RESULTS.md. The same report gives the same text.

    Args:
        report: the content.
        charts: the pictures under figures/; empty if they could not be drawn.
        note: reason why there are no pictures; empty if there are.
    """
    parts = [
        f"# Experiment report: {escape(report.experiment)}\n",
        "  \n".join(_head(report)) + "\n",
        "## Overview\n",
        *_overview(report),
        f"{escape(note)}\n" if note else "",
        *(_section(decided, charts) if (decided := report.strategy_section()) is not None else ()),
        *_section(checkpoint_section(report), charts),
        *_section(training_section(report), charts),
        *section_parts(cost_section(report, brief=True), charts),
        *findings_section(report, charts),
        *_section(storage_section(report, brief=True), charts),
        *issues_section(report),
        *next_steps_section(report),
        *appendix_section(report),
    ]
    return "\n".join(part for part in parts if part)


def _head(report: Report) -> Iterator[str]:
    if report.question:
        yield f"**Question:** {escape(report.question)}"
    yield f"**Status:** {_status(report)}"
    yield f"**Date:** {escape(report.date or 'n/a (not in any log)')}; {escape(report.origin)}"
    yield f"**Design:** {escape(report.design)}"
    models = list(dict.fromkeys(run.model for run in report.runs))
    yield f"**Base models:** {escape(join_names(models) or 'n/a (not known)')}"
    if leading := leading_text(report.settings):
        yield f"**Settings:** {escape(leading)}; all of them: [appendix](#appendix-settings)"
    yield f"**Task:** {escape(report.task)}{f'; decoding {escape(report.decoding)}' if report.analyses else ''}"
    what = "predicted" if report.strategy is None else f"without {report.strategy.stopping} predicted"
    yield f"**Compute:** {_hours(report.device_hours, report.device)}; {what} {_predicted(report)}"


def _section(section: Section, charts: Sequence[Chart]) -> Iterator[str]:
    yield f"## {escape(section.title)}\n"
    yield from section_parts(section, charts)


def _hours(hours: Measured, device: str) -> str:
    """Return `0.20 device-hours (CPU)` or `12.50 GPU-hours`."""
    hours = finite(hours)
    if isinstance(hours, Missing):
        return escape(str(hours))
    least = "at least " if is_at_least(hours) else ""
    return f"{least}{_two_digits(hours.value)} {hours_unit(device)}"


def _predicted(report: Report) -> str:
    """Return the predicted hours with their interval: `0.06 [0.02, 0.22] (3 evaluations not counted)`."""
    hours = finite(report.device_hours_planned)
    if isinstance(hours, Missing):
        return escape(str(hours))
    ends = (
        f" [{_two_digits(hours.low)}, {_two_digits(hours.high)}]"
        if hours.low is not None and hours.high is not None
        else ""
    )
    return f"{_two_digits(hours.value)}{ends}{f' ({escape(hours.method)})' if hours.method else ''}"


def _two_digits(value: float) -> str:
    """Return at least two decimals, more if the number is below 0.1, and whole hours from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"


def _status(report: Report) -> str:
    """Return `✓ All 3 runs are complete`, or the remaining work."""
    cut = sum(run.cut_after_step is not None for run in report.runs)
    total = len(report.runs) - cut
    # Runs without a score are complete in imported training folders.
    noun = "training" if report.completed and not report.analyses else "run"
    failed_exits = sum(is_failed_exit(run) for run in report.runs)
    whose = "a complete training" if failed_exits == 1 else "complete trainings"
    exits = f"; {plural(cut, 'run')} cut" if cut else ""
    exits += f"; {plural(failed_exits, 'job')} of {whose} ended with a failed exit" if failed_exits else ""
    if total and report.completed == total:
        words = "The only" if total == 1 else "Both" if total == 2 else f"All {total:,}"
        return f"✓ {words} {noun}{'s are' if total != 1 else ' is'} complete{exits}"
    left = Counter(run.status.value for run in report.runs if run.status not in _DONE and run.cut_after_step is None)
    counts = ", ".join(f"{number} {status}" for status, number in left.most_common())
    mark = "✗" if left[RunStatus.FAILED.value] else "⚠" if report.completed else "○"
    return f"{mark} {report.completed:,} of {plural(total, noun)} complete ({counts}){exits}"


def _overview(report: Report) -> Iterator[str]:
    if report.compared:
        yield f"**Compared:** {escape(report.compared)}.\n"
    yield "\n".join(f"- {escape(each.text)}" for each in report.headline) + "\n"
    weights = Counter(issue.weight for issue in report.issues)
    counts = [plural(weights[weight], weight.value) for weight in (Severity.ERROR, Severity.WARNING) if weights[weight]]
    if counts:
        yield f"{' and '.join(counts)}: see [Issues and notes](#issues-and-notes).\n"
    if runs := runs_table(report, brief=True):
        yield table_markdown(runs)
    answers = f" Every answer: {link('samples.jsonl')}." if report.analyses else ""
    yield (
        f"The same as an interactive page: {link('report.html')}.{answers} Missing values are shown as "
        "`n/a (reason)`.\n"
    )


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
        lines = [_bullet(subjects, *what) for what, subjects in list(same.items())[:_ISSUES_TOLD]]
        rest = [name for names in list(same.values())[_ISSUES_TOLD:] for name in names]
        if rest:
            lines.append(f"- The same of {plural(len(rest), 'other')}: {escape(join_names(rest))}\n")
        yield "".join(lines)


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
