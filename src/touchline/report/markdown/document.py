"""RESULTS.md: the design, the status, the measurements, and the conclusions that they allow.

It has seven sections: overview and status, checkpoint verification, training results, key findings, storage, issues and
notes, next steps. An appendix with commands and provenance follows. The text contains only data of the report object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from touchline.core.finding import Severity
from touchline.core.markup import code, escape, table
from touchline.core.quantity import Measured, Missing
from touchline.core.status import RunStatus
from touchline.plan.settings import leading_text
from touchline.report.chart import Chart
from touchline.report.facts import is_failed_exit, seeds_of
from touchline.report.formatting import count, device_title, duration, join_names, scale_of
from touchline.report.markdown.appendix import appendix_section
from touchline.report.markdown.checkpoints import checkpoint_section, storage_section
from touchline.report.markdown.findings import findings_section, issues_section, next_steps_section
from touchline.report.markdown.training import training_section
from touchline.report.markup import link
from touchline.report.report import Report
from touchline.spec.runs import RunKind

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
        *checkpoint_section(report),
        *training_section(report, charts),
        *findings_section(report, charts),
        *storage_section(report, charts),
        *issues_section(report),
        *next_steps_section(report),
        *appendix_section(report),
    ]
    return "\n".join(part for part in parts if part)


def _head(report: Report) -> Iterator[str]:
    if report.question:
        yield f"**Question:** {escape(report.question)}"
    yield f"**Status:** {_status(report)}"
    yield f"**Date:** {escape(report.date or 'n/a (no log tells)')}; {escape(report.origin)}"
    yield f"**Design:** {escape(report.design)}"
    models = list(dict.fromkeys(run.model for run in report.runs))
    yield f"**Base models:** {escape(join_names(models) or 'n/a (not known)')}"
    if leading := leading_text(report.settings):
        yield f"**Settings:** {escape(leading)}; all of them: [appendix](#appendix-settings)"
    yield f"**Task:** {escape(report.task)}{f'; decoding {escape(report.decoding)}' if report.analyses else ''}"
    measured = f"{duration(report.device_hours)} measured"
    if isinstance(report.device_hours, Missing):
        measured = str(report.device_hours)
    planned = _planned(report.device_hours_planned)
    yield f"**{device_title(report.device)} time:** {escape(measured)}; planned {escape(planned)}"


def _planned(hours: Measured) -> str:
    """Return the predicted time: `3:39 (1:24 to 13:15; 3 evaluations not counted)`."""
    if isinstance(hours, Missing):
        return str(hours)
    ends = (
        [f"{duration(hours, hours.low)} to {duration(hours, hours.high)}"]
        if hours.low is not None and hours.high is not None
        else []
    )
    told = "; ".join([*ends, *([hours.method] if hours.method else [])])
    return f"{duration(hours)}{f' ({told})' if told else ''}"


def _status(report: Report) -> str:
    """Return `✓ All 3 runs are complete`, or the remaining work."""
    total = len(report.runs)
    # Runs without a score are complete in imported training folders.
    noun = "training" if report.completed and not report.analyses else "run"
    failed_exits = sum(is_failed_exit(run) for run in report.runs)
    whose = "a complete training" if failed_exits == 1 else "complete trainings"
    exits = f"; {count(failed_exits, 'job')} of {whose} ended with a failed exit" if failed_exits else ""
    if total and report.completed == total:
        words = "The only" if total == 1 else "Both" if total == 2 else f"All {total:,}"
        return f"✓ {words} {noun}{'s are' if total != 1 else ' is'} complete{exits}"
    left = Counter(run.status.value for run in report.runs if run.status not in _DONE)
    told = ", ".join(f"{number} {status}" for status, number in left.most_common())
    mark = "✗" if left[RunStatus.FAILED.value] else "⚠" if report.completed else "○"
    return f"{mark} {report.completed:,} of {count(total, noun)} complete ({told}){exits}"


def _overview(report: Report) -> Iterator[str]:
    if report.compared:
        yield f"**Compared:** {escape(report.compared)}.\n"
    yield "\n".join(f"- {escape(each.text)}" for each in report.headline) + "\n"
    weights = Counter(issue.weight for issue in report.issues)
    told = [count(weights[weight], weight.value) for weight in (Severity.ERROR, Severity.WARNING) if weights[weight]]
    if told:
        yield f"{' and '.join(told)}: see [Issues and notes](#issues-and-notes).\n"
    yield _runs(report)
    answers = f" Every answer: {link('samples.jsonl')}." if report.analyses else ""
    yield (
        f"The same as an interactive page: {link('report.html')}.{answers} Missing values are shown as "
        "`n/a (reason)`.\n"
    )


def _runs(report: Report) -> str:
    """Return one table of the runs with their status and score."""
    main = report.analyses[0] if report.analyses else None
    scores = {} if main is None else {score.run: score for score in main.scores}
    gains = {} if main is None else {each.run: each.difference for each in main.comparisons}
    scale = None if main is None else scale_of(main)
    score_name = "score" if main is None else main.score
    seeds = seeds_of(report.runs)
    rows = []
    for run, facts in zip(report.runs, report.facts, strict=True):
        score, gain = "n/a (not evaluated)", "-"
        if scale is not None and (own := scores.get(run.name)) is not None:
            score = f"{scale.value(own.value)} ({scale.span(own.low, own.high)})"
        if scale is not None and (found := gains.get(run.name)) is not None:
            gain = f"{scale.difference(found.value)} ({scale.ends(found.low, found.high)})"
        is_control = run.kind is RunKind.CONTROL or run.control is not None
        rows.append(
            (
                code(run.name),
                "control" if is_control else run.kind.value,
                escape(run.model),
                escape(facts.settings),
                str(seeds.get(run.name, "n/a (not reported)")) if run.kind is RunKind.FINE_TUNED else "-",
                f"{run.status.value}, failed exit"
                if run.status is RunStatus.TRAINED and is_failed_exit(run)
                else run.status.value,
                score,
                gain,
            )
        )
    header = ("run", "type", "model", "settings", "seed", "status", f"{score_name} (95%)", "against its control")
    return table([escape(name) for name in header], rows, right=(4, 6, 7))
