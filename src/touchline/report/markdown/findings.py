"""Three sections of RESULTS.md: key findings with the scores behind them, issues and notes, next steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.finding import Severity
from touchline.core.markup import code, escape, fence, table
from touchline.core.units import percent
from touchline.data.scores import EvaluationRecord
from touchline.report.chart import Chart
from touchline.report.findings.training import COST
from touchline.report.formatting import count, factor_words, join_names, metric_words, scale_of
from touchline.report.markdown.scores import more_about_scores
from touchline.report.markup import cell, figures, link, sources
from touchline.report.report import AnswerCounts, Report, Statement
from touchline.report.table import to_markdown
from touchline.report.tests import CAPTION, seed_test_table
from touchline.results.report_inputs import Issue
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Comparison, RunScore

MARKS = {Severity.ERROR: "✗", Severity.WARNING: "⚠", Severity.INFO: "ℹ"}
_ISSUES_TOLD = 12
"""Maximum number of issues per title listed one by one. The rest is counted."""
_ITEMS_CODE = 20


def findings_section(report: Report, charts: Sequence[Chart]) -> Iterator[str]:
    """Yield key findings: the scores in a table, then every sentence under its topic."""
    yield "## Key findings\n"
    if not report.analyses:
        yield "Nothing has been evaluated: there is no score, and what follows describes trainings alone.\n"
    for number, analysis in enumerate(report.analyses):
        yield from _scores(report, analysis, charts if number == 0 else ())
    if tests := seed_test_table(report):
        yield "### Tests over training seeds\n"
        yield to_markdown(tests)
        yield f"{CAPTION}\n"
    yield from more_about_scores(report)
    if any(_is_remarkable(each) for each in report.answers):
        yield "### Answers\n"
        yield from _answers(report.answers)
    if report.general:
        yield "### General ability\n"
        yield table(
            ("run", "task", "metric", "score", "change against the control"),
            [
                (code(each.run), escape(each.task), escape(metric_words(each)), cell(each.score), cell(each.change))
                for each in report.general
            ],
        )
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


def _heading(report: Report, topic: str) -> str:
    if topic in report.factors:
        return f"Effect of {escape(factor_words(topic))} ({code(topic)})"
    return escape(topic)


def _scores(report: Report, analysis: Analysis, charts: Sequence[Chart]) -> Iterator[str]:
    """Yield every evaluated run: its score, and its difference from its control if it has one."""
    own = {score.run: score for score in analysis.scores}
    compared = {each.run: each for each in analysis.comparisons}
    is_main = analysis is report.analyses[0]
    runs = [run for run in report.runs if run.name in own]
    with_match = is_main and analysis.score == "exact match" and any(run.match is not None for run in runs)
    with_control = bool(analysis.comparisons)
    header = [
        *("run", "checkpoint", analysis.score, "95% interval", "items"),
        *(["normalised match"] if with_match else []),
        *(
            ["against its control", "gained / lost" if analysis.binary else "rose / fell", "p (Holm)", "shown"]
            if with_control
            else []
        ),
    ]
    rows = [_score_row(analysis, run, own[run.name], compared.get(run.name), with_match=with_match) for run in runs]
    rows = [row[: len(header)] for row in rows]
    yield f"### Scores: {escape(analysis.task)}, {escape(analysis.score)}\n"
    right = (2, 4, 5, 8) if with_match else (2, 4, 7)
    yield table([escape(name) for name in header], rows, right=tuple(place for place in right if place < len(header)))
    yield f"{_definitions(report, analysis, with_match)}\n"
    yield from figures(charts, "findings")
    if is_main:
        yield from _by_checkpoint(report.runs)


def _score_row(
    analysis: Analysis, run: RunResult, own: RunScore, compared: Comparison | None, *, with_match: bool
) -> tuple[str, ...]:
    scale = scale_of(analysis)
    right = f"{own.proportion.k:,} of {own.proportion.n:,}" if own.proportion is not None else f"{own.items:,}"
    cells = [
        code(run.name),
        code(analysis.checkpoints.get(run.name, "-")),
        scale.value(own.value) + (" (saturated)" if own.saturated else ""),
        scale.span(own.low, own.high),
        right,
        *(["n/a (not scored)" if run.match is None else scale.value(run.match.value)] if with_match else []),
    ]
    if compared is None:
        return (*cells, "-", "-", "-", "-")
    d = compared.difference
    p = "<0.001" if d.p_adjusted < 0.001 else f"{d.p_adjusted:.3f}"
    value = f"{scale.difference(d.value)} ({scale.ends(d.low, d.high)})"
    return (*cells, value, f"{d.gained:,} / {d.lost:,}", p, compared.shown.words)


def _definitions(report: Report, analysis: Analysis, with_match: bool) -> str:
    """Return the definitions of the columns, in a clause each."""
    method = "; ".join(dict.fromkeys(score.method for score in analysis.scores))
    parts = [f"Interval: {escape(method)}."]
    if analysis.score == "accuracy" and report.runs and any(run.labels is not None for run in report.runs):
        parts.append("Accuracy: the label that is read from the answer is the target.")
    if analysis.score == "exact match":
        parts.append("Exact match: equal to the target, character by character, without surrounding white space.")
    if with_match:
        parts.append("Normalised match: punctuation and white space do not count, case does.")
    if analysis.comparisons:
        paired = "; ".join(dict.fromkeys(each.difference.method for each in analysis.comparisons))
        test = "exact McNemar test" if analysis.binary else "sign-flip test"
        parts.append(
            f"Against its control: the same items, interval {escape(paired)}; p: {test}, Holm-adjusted over the "
            f"declared family of {count(analysis.family, 'comparison')}. Shown: what the adjusted p value allows to be "
            "said at the 5% level."
        )
    return " ".join(parts)


def _by_checkpoint(runs: Sequence[RunResult]) -> Iterator[str]:
    """Yield scores of every evaluated checkpoint, if a run has more than one."""
    several = [run for run in runs if len({record.checkpoint for record in run.evaluations}) > 1]
    if not several:
        return
    names = list(dict.fromkeys(record.checkpoint for run in several for record in run.evaluations))
    rows = []
    for run in several:
        scores = {record.checkpoint: _mean(record) for record in run.evaluations}
        rows.append((code(run.name), *(scores.get(name, "-") for name in names)))
    yield "### By checkpoint\n"
    yield table(("run", *(escape(name) for name in names)), rows, right=tuple(range(1, len(names) + 1)))
    yield (
        "Means over the test items. The comparisons above are of the last checkpoint of each run, which was chosen "
        "before anything was scored; a best one picked from this table would be scored too high.\n"
    )


def _mean(record: EvaluationRecord) -> str:
    scores = [sample.score for sample in record.samples]
    if not scores:
        return "n/a (no items)"
    mean = sum(scores) / len(scores)
    return percent(mean) if min(scores) >= 0 and max(scores) <= 1 else f"{mean:.3f}"


def _is_remarkable(each: AnswerCounts) -> bool:
    unread = each.parsed is not None and each.parsed < each.answers
    return bool(each.empty or each.cut or each.errors or unread)


def _answers(answers: Sequence[AnswerCounts]) -> Iterator[str]:
    """Yield evaluations with answers that are empty, truncated, failed or not readable. The others are counted."""
    told = [each for each in answers if _is_remarkable(each)]
    with_cut = any(each.cut is not None for each in told)
    with_parsed = any(each.parsed is not None for each in told)
    rows = [
        (
            code(each.run),
            escape(each.task),
            code(each.checkpoint),
            f"{each.answers:,}",
            f"{each.empty:,}",
            f"{each.errors:,}",
            *(["n/a (not recorded)" if each.cut is None else f"{each.cut:,}"] if with_cut else []),
            *(["n/a (the task does not parse)" if each.parsed is None else f"{each.parsed:,}"] if with_parsed else []),
        )
        for each in told
    ]
    header = [
        *("run", "task", "checkpoint", "answers", "empty", "not generated"),
        *(["cut at the limit"] if with_cut else []),
        *(["readable"] if with_parsed else []),
    ]
    yield table(header, rows, right=tuple(range(3, len(header))))
    rest = len(answers) - len(told)
    how = "whether answers were cut at the token limit was not recorded" if not with_cut else ""
    quiet = f"In {count(rest, 'other evaluation')} no answer was empty or failed" if rest else ""
    if how or quiet:
        line = "; ".join(part for part in (quiet, how) if part)
        yield f"{line[:1].upper()}{line[1:]}.\n"


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
        yield "Nothing that follows from these results: every run is complete, and no comparison is open.\n"
        return
    for number, step in enumerate(report.next_steps, 1):
        yield f"### {number}. {escape(step.title)}\n"
        yield f"{escape(step.why)}\n"
        if step.command is not None:
            yield fence([step.command], "bash")
    yield "Commands are those of the experiment's folder.\n"
