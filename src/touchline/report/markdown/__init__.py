"""RESULTS.md: the answer, the claims and the next step first; runs, storage and commands folded at the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jinja2.filters import do_urlencode

from touchline.core.finding import Severity
from touchline.core.status import RunStatus
from touchline.core.table import Table, section_markdown, table_markdown
from touchline.core.text import capital, code, escape, fence, join_names
from touchline.core.units import bare, device_hours, format_bytes, hours_unit, plural
from touchline.plan.settings import Origin, settings_table
from touchline.report.claims import claims_section
from touchline.report.facts import is_failed_exit
from touchline.report.figures import Chart
from touchline.report.issues import EXPERIMENT
from touchline.report.report import Report
from touchline.report.tables.checkpoints import (
    checkpoint_verdict,
    checkpoints_by_run,
    faults_table,
    faulty_runs,
    sizes_table,
    storage_totals,
)
from touchline.report.tables.conditions import conditions_table
from touchline.report.tables.runs import losses_table, runs_in_numbers
from touchline.report.tables.scores import label_tables
from touchline.report.tables.training import agreement_table
from touchline.results.report_inputs import Issue
from touchline.results.set_matrix import matrix_table

__all__ = ["results_markdown"]

MARKS = {Severity.ERROR: "✗", Severity.WARNING: "⚠", Severity.INFO: "ℹ"}
_CLAIMS, _REMARKS, _ISSUES, _NAMES, _NOTES = 25, 8, 12, 3, 6
_ROWS = 8  # Maximum number of rows of tables of problems and sizes
_LATER = 4
_OUTSIDE = 3
_SETTINGS = 24
_CONDITIONS = 25  # Maximum number of conditions. With more, the best, the worst and the controls
_RUNS = 50


def results_markdown(report: Report, charts: Sequence[Chart], note: str = "") -> str:
    """Return the text of RESULTS.md. The same report gives the same text."""
    parts = [
        f"# {escape(report.experiment)}\n",
        "  \n".join(_head(report)) + "\n",
        "## Overview\n",
        *_tables(conditions_table(report, most=_CONDITIONS), _test_sets(report)),
        *_tables(*(_first(table, _ROWS) for table in label_tables(report.runs, 0))),
        "" if report.runs else "No run was found.\n",
        *_findings(report),
        *_issues(report),
        *_next_step(report),
        *_training(report, charts, note),
        *_settings(report),
        *_checkpoints(report),
        "## Storage\n",
        _storage(report),
        *_folded(report),
    ]
    return "\n".join(part for part in parts if part)


def _tables(*tables: Table | None) -> Iterator[str]:
    for table in tables:
        if table is not None:
            yield table_markdown(table)


def _first(table: Table | None, most: int) -> Table | None:
    if table is None or len(table.rows) <= most:
        return table
    rest = f"{plural(len(table.rows) - most, 'other row')} in report.html."
    return replace(table, rows=table.rows[:most], notes=(*table.notes, rest))


def _head(report: Report) -> Iterator[str]:
    if report.question:
        yield f"**Question:** {escape(report.question)}"
    yield f"**Answer:** {escape(report.answer.text)}"
    if report.answer.details:
        yield escape(" ".join(report.answer.details))
    date = f"; {report.date}" if report.date else ""
    yield f"**Status:** {_status(report)}; {escape(report.origin + date)}"
    models = list(dict.fromkeys(run.model for run in report.runs))
    model = f"; base model {models[0]}" if len(models) == 1 else ""
    yield f"**Compared:** {escape(report.compared + model)}; task {escape(report.task)}"
    if report.strategy is not None:
        yield f"**Design:** {escape(report.design)}"


def _status(report: Report) -> str:
    """Return `✓ All 3 runs are complete`, or the remaining work."""
    cut = sum(run.cut_after_step is not None for run in report.runs)
    total = len(report.runs) - cut
    failed_exits = sum(is_failed_exit(run) for run in report.runs)
    exits = f"; {plural(cut, 'run')} cut" if cut else ""
    exits += f"; {plural(failed_exits, 'complete run')} with a failed exit" if failed_exits else ""
    if total and report.completed == total:
        words = "The only" if total == 1 else "Both" if total == 2 else f"All {total:,}"
        return f"✓ {words} run{'s are' if total != 1 else ' is'} complete{exits}"
    left = Counter(run.status.value for run in report.runs if not run.status.is_complete and run.cut_after_step is None)
    counts = ", ".join(f"{number} {status}" for status, number in left.most_common())
    mark = "✗" if left[RunStatus.FAILED.value] else "⚠" if report.completed else "○"
    return f"{mark} {report.completed:,} of {plural(total, 'run')} complete{f' ({counts})' if counts else ''}{exits}"


def _test_sets(report: Report) -> Table | None:
    several = report.test_sets is not None and len(report.test_sets.test_sets) > 1
    return _first(matrix_table(report.test_sets), _CLAIMS) if several and report.test_sets is not None else None


def _findings(report: Report) -> Iterator[str]:
    yield section_markdown(claims_section(report, _CLAIMS))
    shown = report.remarks[:_REMARKS]
    more = [f"- {plural(left, 'other remark')} in report.html." for left in [len(report.remarks) - len(shown)] if left]
    if shown:
        yield "\n".join([*(f"- {escape(each.text)}" for each in shown), *more]) + "\n"


def _issues(report: Report) -> Iterator[str]:
    yield "## Issues and notes\n"
    kinds: dict[tuple[Severity, str], list[Issue]] = {}
    for issue in report.issues:
        kinds.setdefault((issue.weight, issue.title), []).append(issue)
    heavy = {kind: found for kind, found in kinds.items() if kind[0] is not Severity.INFO}
    lines = [_issue(weight, title, found) for (weight, title), found in list(heavy.items())[:_ISSUES]]
    if len(heavy) > _ISSUES:
        lines.append(f"- {plural(len(heavy) - _ISSUES, 'other kind')} of warnings in report.html.")
    light = {title: found for (weight, title), found in kinds.items() if weight is Severity.INFO}
    whole = [title for title, found in light.items() if found[0].subject == EXPERIMENT][:_NOTES]
    lines += [_issue(Severity.INFO, title, light[title]) for title in whole]
    titles = [
        title + (f" ({len(found):,})" if len(found) > 1 else "") for title, found in light.items() if title not in whole
    ]
    if titles:
        notes = escape("; ".join(titles[:_NOTES]) + (" ..." if len(titles) > _NOTES else ""))
        lines.append(f"- {MARKS[Severity.INFO]} Notes in report.html: {notes}.")
    yield "\n".join(lines or ["None."]) + "\n"


def _issue(weight: Severity, title: str, found: Sequence[Issue]) -> str:
    names = [code(name) for name in dict.fromkeys(each.subject for each in found) if name != EXPERIMENT]
    who = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else "")
    place = "" if found[0].where is None else f" ({_place(found[0].where)})"
    text = escape(found[0].text)
    return f"- {MARKS[weight]} **{escape(capital(title))}**{f', {who}' if who else ''}: {text}{place}"


def _place(where: str) -> str:
    """Return `file:line` as a link to the file."""
    path, colon, line = where.rpartition(":")
    return f"{link(path)}, line {line}" if colon and line.isdigit() else link(where)


def _next_step(report: Report) -> Iterator[str]:
    yield "## Next steps\n"
    if not report.next_steps:
        is_open = any(claim.needed for claim in report.claims)
        yield f"None. {'The claims name what would establish them.' if is_open else 'No claim is open.'}\n"
        return
    first, *later = report.next_steps
    yield f"**{escape(first.title)}.** {escape(first.why)}\n"
    if first.command is not None:
        yield fence([first.command], "bash")
    if later:
        titles = [each.title for each in later[:_LATER]]
        more = f"; {len(later) - _LATER} more" if len(later) > _LATER else ""
        yield f"Then (report.html): {escape('; '.join(titles))}{more}.\n"


# ---- training --------------------------------------------------------------------------------------------------------


def _training(report: Report, charts: Sequence[Chart], note: str) -> Iterator[str]:
    yield "## Training results\n"
    cost = f"{device_hours(report.device_hours, hours_unit(report.device))}; {report.predicted_cost}"
    yield f"**Cost:** {escape(cost)}. {_predictions(report)}".rstrip() + "\n"
    yield f"{escape(note)}\n" if note else ""
    yield from figures(charts, "training")
    table = losses_table(report, _CONDITIONS)
    yield from _tables(table, _first(agreement_table(report.runs), _ROWS))
    if table is None:
        yield "No losses: no run has trained.\n"


def _predictions(report: Report) -> str:
    """Return `11 of 11 predictions held.`, and those that did not."""
    judged = [row for row in report.estimates if row.inside is not None]
    if not judged:
        return f"{plural(len(report.estimates), 'prediction')}, none measured yet." if report.estimates else ""
    missed = [row for row in judged if not row.inside]
    outside = [
        f"{row.quantity} of {row.run} ({bare(row.predicted, 3)} predicted, {bare(row.measured, 3)} measured)"
        for row in missed
    ]
    where = f" Outside: {join_names(outside, _OUTSIDE)}." if outside else ""
    return f"{len(judged) - len(missed)} of {plural(len(judged), 'prediction')} held.{escape(where)}"


def _settings(report: Report) -> Iterator[str]:
    if not report.settings:
        return
    yield "## Settings\n"
    untold = [each for each in report.settings if each.origin in (Origin.DEFAULT, Origin.FIXED)]
    table = settings_table([each for each in report.settings if each not in untold])
    shown = None if table is None else table.only("setting", "value", "origin", "reason")
    yield from _tables(_first(shown, _SETTINGS))
    if untold:
        yield f"{plural(len(untold), 'default')}: {link('runs_plan.md')}.\n"


# ---- checkpoints and storage -----------------------------------------------------------------------------------------


def _checkpoints(report: Report) -> Iterator[str]:
    yield "## Checkpoint verification\n"
    yield f"{escape(checkpoint_verdict(report))}\n"
    yield from _tables(_first(faults_table(report.verification.checkpoints), _ROWS))


def _storage(report: Report) -> str:
    storage = report.verification.storage
    if not storage.runs and not storage.adapters and not storage.bases:
        return "n/a (no checkpoint was found)\n"
    freed = format_bytes(sum(each.size_bytes for each in storage.deletable))
    deletable = f" `touchline clean .` lists {freed} that can be deleted." if storage.deletable else ""
    return f"{escape(storage_totals(report))}{deletable}\n"


def _folded(report: Report) -> Iterator[str]:
    yield "<details>\n<summary>Runs, storage, data, commands</summary>\n"
    yield from _tables(runs_in_numbers(report, _RUNS))
    if (strategy := report.strategy_section()) is not None:
        yield from _tables(*(_first(table, 3 * _ROWS) for table in strategy.tables))
    faulty = faulty_runs(report)
    by_run = checkpoints_by_run(report) if faulty else None
    if by_run is not None:
        rows = tuple(row for row in by_run.rows if row[0] in faulty)
        yield from _tables(_first(replace(by_run, rows=rows, title="Checkpoints by epoch"), _ROWS))
    yield from _tables(_first(sizes_table(report), _ROWS))
    data = [(each, "; ".join(f"{what} {_hash(value)}" for what, value in each.facts)) for each in report.sources]
    lines = [f"- {escape(each.kind)} {code(each.name)}: {escape(facts)}" for each, facts in data[:_ROWS]]
    yield "\n".join(lines) + "\n" if lines else ""
    yield "### Commands\n"
    yield "To be typed in the experiment's folder.\n"
    yield fence([line for each in report.commands for line in (f"# {each.text}", each.command)], "bash")
    answers = f", every answer in {link('samples.jsonl')}" if report.analyses else ""
    yield f"Everything else: {link('report.html')} and `touchline report . --json`{answers}.\n"
    yield "</details>\n"


def _hash(value: str) -> str:
    is_hash = len(value) == 64 and all(letter in "0123456789abcdef" for letter in value)
    return value[:16] if is_hash else value


_LINKABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_LINKED = re.compile(r"(?<=[^!\\])\]\((?!figures/|report\.html|samples\.jsonl)([A-Za-z0-9_][A-Za-z0-9._/-]*)\)")


def link(path: str) -> str:
    """Return a relative link to a file, or code if its name is not safe in a link."""
    if _LINKABLE.fullmatch(path) and ".." not in path:
        return f"[{escape(path)}]({path})"
    return code(path)


def rebased(text: str, base: str) -> str:
    """Return the text with its links to the experiment's files adjusted to another folder."""
    return text if base == "." else _LINKED.sub(lambda found: f"]({do_urlencode(base)}/{found[1]})", text)


def figures(charts: Sequence[Chart], *sections: str) -> list[str]:
    """Return the pictures of a section, each with its caption."""
    return [
        f"![{escape(chart.title)}](figures/{chart.name}.png)\n\n{escape(chart.caption)}\n"
        for chart in charts
        if chart.section in sections and _LINKABLE.fullmatch(chart.name)
    ]
