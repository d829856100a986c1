"""report.html: one file that opens from disk, makes no network requests, and runs only its own scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import jinja2
from jinja2.filters import do_urlencode
from markupsafe import Markup

from touchline.core.finding import Severity
from touchline.core.levels import factor_words
from touchline.core.quantity import Missing
from touchline.core.table import Section, Table, present, value_text
from touchline.core.text import valid_utf8
from touchline.core.units import Scale, bare, device_hours, format_bytes, hours_unit, plural
from touchline.plan.settings import leading_text
from touchline.report.claims import CONTROL as AGAINST_CONTROL
from touchline.report.claims import claims_table
from touchline.report.colors import CONTROL, SeriesColor, inks, used
from touchline.report.facts import is_asked_about, measured_of, scale_of
from touchline.report.figures import Chart
from touchline.report.page.parts import (
    ROWS_LIMIT,
    browser_data,
    colours,
    embedded_json,
    embedded_spec,
    heading,
    inlined,
    page_table,
)
from touchline.report.report import Report
from touchline.report.tables.checkpoints import checkpoint_section, every_checkpoint, storage_section
from touchline.report.tables.runs import runs_table, settings_section
from touchline.report.tables.scores import label_tables, scores_section
from touchline.report.tables.training import cost_section, training_section
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Conclusion

SAMPLES = "samples.jsonl"  # File beside the page with every answer
_ISSUES_SHOWN = 3
_ISSUES_MOST = 200  # Maximum number of each kind in the page. RESULTS.md has all of them
_CLAIMS = 12  # Maximum number of claims that are shown first
_LABELED_RUNS = 60
_MEASURED = ("run", "score", "difference", "p (Holm)", "train loss", "val loss", "gap")
"""Columns of runs that are shown even if all values are equal."""


def report_html(
    report: Report, charts: Sequence[Chart], *, script: str | None = None, figures_off: str = "", base: str | None = "."
) -> str:
    """Return the page. The same report gives the same text."""
    drawn = bool(charts) and not figures_off
    given = inks(report)
    own_inks = used({**given, "": CONTROL})
    scripts: list[tuple[Markup, str]] = []
    if drawn and script is not None:
        scripts.append(inlined(script, "script"))
    scripts.append(inlined(_source("page.js"), "script"))
    style, style_hash = inlined(colours(own_inks) + _source("page.css"), "style")
    browser = browser_data(report, SAMPLES)
    runs, shared = _without_shared(runs_table(report))
    claims = claims_table(report)
    text = (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            policy=(
                f"default-src 'none'; script-src {' '.join(digest for _, digest in scripts)}; style-src {style_hash}; "
                "img-src data:; base-uri 'none'; form-action 'none'"
            ),
            style=style,
            scripts=[code for code, _ in scripts],
            figures=_figures(charts) if drawn else {},
            specs=[(chart.name, embedded_spec(chart.spec, own_inks)) for chart in charts] if drawn else [],
            figures_off=figures_off,
            cards=cards(report),
            issues=_issues(report),
            claims=None if claims is None else page_table(replace(claims, rows=claims.rows[:_CLAIMS], notes=())),
            claims_most=_CLAIMS,
            tests=() if claims is None else claims.notes,
            remarks=[f"{each.topic}: {each.text}" for each in report.remarks],
            commands=_by_group(report),
            runs=page_table(runs, given, limit=None),
            shared=shared,
            folds=_folds(report, given),
            files=[facts for facts in report.facts if facts.files],
            browser=browser,
            browser_json=embedded_json(browser) if browser is not None and browser["items"] else None,
            base=base,
        )
    )
    # NUL is not allowed in HTML.
    return valid_utf8(text.replace("\0", "\ufffd"))


def _folds(report: Report, colors: Mapping[str, SeriesColor]) -> list[dict[str, object]]:
    scores, checkpoints, storage = scores_section(report), checkpoint_section(report), storage_section(report)
    labels = label_tables([run for run in _best_first(report) if run.labels is not None], _LABELED_RUNS)
    others = [table for table in scores.tables if table.title not in {each.title for each in labels}]
    made: list[dict[str, object]] = []

    def add(title: str, summary: str, section: Section, figures: str = "") -> None:
        tables = [page_table(table, colors) for table in section.tables]
        if section.paragraphs or tables:
            made.append(
                {
                    **{"title": title, "summary": summary, "paragraphs": section.paragraphs, "tables": tables},
                    **{"figures": figures, "first_only": section.tables == labels},
                }
            )

    claims, strategy = claims_table(report), report.strategy_section()
    if strategy is not None:
        add("Strategy", ", ".join(table.title for table in strategy.tables), strategy)
    if claims is not None and len(claims.rows) > _CLAIMS:
        add("All claims", f"{len(claims.rows):,} claims", Section(title="", tables=(claims,)))
    titles = ", ".join(table.title for table in others if table.title)
    add("Scores in detail", titles, Section(title="", tables=tuple(others)), "scores")
    add("Labels and confusion matrices", "best run and its control first", Section(title="", tables=labels))
    add("Training in numbers", f"packed: {_packed(report)}; {_memory(report)}", training_section(report))
    add("Cost and predictions", _held(report), cost_section(report), "estimates")
    both = Section(
        title="",
        paragraphs=(*checkpoints.paragraphs, *storage.paragraphs),
        tables=(*checkpoints.tables, *present(every_checkpoint(report, ROWS_LIMIT)), *storage.tables),
    )
    add("Checkpoints and storage", _valid(report), both)
    settings = Section(title="", tables=settings_section(report).tables)
    add("Settings of every run", leading_text(report.settings), settings)
    return made


def _held(report: Report) -> str:
    """Return `11 of 11 predictions held`."""
    judged = [row.inside for row in report.estimates if row.inside is not None]
    if not report.estimates:
        return "there is no plan to compare with the measurements"
    if not judged:
        return f"{plural(len(report.estimates), 'prediction')}, none measured yet"
    return f"{sum(judged):,} of {plural(len(judged), 'prediction')} held"


def _valid(report: Report) -> str:
    """Return `2 checkpoints valid, 88 MiB`."""
    found = report.verification.checkpoints
    valid, lost = sum(each.sound for each in found), sum(not each.expected for each in report.verification.missing)
    parts = [f"{plural(valid, 'checkpoint')} valid" if found else "no checkpoint found"]
    parts += [f"{len(found) - valid:,} corrupt"] if len(found) > valid else []
    parts += [f"{lost:,} missing"] if lost else []
    size = report.verification.storage.total_bytes
    return ", ".join([*parts, *([format_bytes(size)] if size else [])])


def _packed(report: Report) -> str:
    ways = Counter(row.packed for row in report.packing)
    if len(ways) > 1:
        return ", ".join(f"{way} ({number:,})" for way, number in ways.items())
    return next(iter(ways), "n/a")


def _memory(report: Report) -> str:
    peaks = measured_of(run.peak_memory for run in report.runs)
    ends = [bare(end(peaks, key=lambda each: each.value), 3) for end in (min, max)] if peaks else ["n/a"]
    return f"peak memory {' to '.join(dict.fromkeys(ends))}"


def _best_first(report: Report) -> list[RunResult]:
    values = {score.run: score.value for score in report.analyses[0].scores} if report.analyses else {}
    control = {facts.run: facts.control for facts in report.facts}
    best = max((run.name for run in report.runs if is_asked_about(run)), key=lambda n: values.get(n, -inf), default="")
    return sorted(report.runs, key=lambda run: (run.name != best, run.name != control.get(best)))


def _without_shared(table: Table | None) -> tuple[Table | None, str]:
    """Return the table of runs without settings that all runs share, and these in one line."""
    if table is None or len(table.rows) < 2:
        return table, ""
    shared: dict[str, str] = {}
    for place, column in enumerate(table.columns):
        texts = {value_text(row[place], column) for row in table.rows if row[place] is not None}
        if column.name not in _MEASURED and len(texts) == 1:
            shared[column.name] = f"{column.label} {texts.pop()}"
    kept = (column.name for column in table.columns if column.name not in shared)
    return table.only(*kept), ", ".join(shared.values())


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("touchline.report.page", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A path as part of a link, with any characters escaped.
    environment.filters["address"] = lambda path: do_urlencode(valid_utf8(path))
    environment.filters["heading"] = heading
    return environment


def _source(name: str) -> str:
    environment = _environment()
    if environment.loader is None:
        raise AssertionError("the environment has a loader")
    return environment.loader.get_source(environment, name)[0]


def _figures(charts: Sequence[Chart]) -> dict[str, list[Chart]]:
    made: dict[str, list[Chart]] = {}
    for chart in charts:
        made.setdefault(chart.section, []).append(chart)
    return made


def _issues(report: Report) -> dict[str, object]:
    """Return the issues: warnings are shown, with a limit. Informational ones are collapsed."""
    heavy: list[object] = [issue for issue in report.issues if issue.weight is not Severity.INFO]
    light: list[object] = [issue for issue in report.issues if issue.weight is Severity.INFO]
    more = heavy[_ISSUES_SHOWN:]
    return {
        "shown": heavy[:_ISSUES_SHOWN],
        "more": more[:_ISSUES_MOST],
        "info": light[:_ISSUES_MOST],
        "left": max(0, len(more) - _ISSUES_MOST) + max(0, len(light) - _ISSUES_MOST),
    }


def _by_group(report: Report) -> dict[str, list[object]]:
    made: dict[str, list[object]] = {}
    for command in report.commands:
        made.setdefault(command.group, []).append(command)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Figure at the top of the page."""

    value: str
    label: str
    kind: str = ""
    """`bad` or `warn` if it needs attention."""


def cards(report: Report) -> tuple[Card, ...]:
    """Return the answer, the range of the scores, the cost against its prediction, and the number of warnings."""
    cut = sum(run.cut_after_step is not None for run in report.runs)
    made: list[Card] = []
    if report.completed < len(report.runs):
        ended = f"runs complete, {cut:,} cut" if cut else "runs complete"
        kind = "warn" if report.completed < len(report.runs) - cut else ""
        made.append(Card(value=f"{report.completed:,} of {len(report.runs) - cut:,}", label=ended, kind=kind))
    if (decided := report.strategy_cards()) is not None:
        made += [Card(value=value, label=label) for value, label in decided]
    elif report.analyses:
        made += [*_answer_card(report), *_score_card(report, report.analyses[0])]
    spent, said = report.device_hours, report.device_hours_planned
    if not isinstance(spent, Missing):
        label = hours_unit(report.device).replace("-hours", " time")
        label += "" if isinstance(said, Missing) else f", {report.predicted_cost}"
        made.append(Card(value=device_hours(spent), label=label))
    counts = Counter(issue.weight for issue in report.issues)
    heavy = [weight for weight in (Severity.ERROR, Severity.WARNING) if counts[weight]]
    if heavy:
        value, _, label = ", ".join(plural(counts[weight], weight.value) for weight in heavy).partition(" ")
        made.append(Card(value=value, label=label, kind="bad" if heavy[0] is Severity.ERROR else "warn"))
    return tuple(made)


def _answer_card(report: Report) -> list[Card]:
    answer = report.answer
    if answer.shown is None:
        return []
    words = "Established" if answer.shown in (Conclusion.HIGHER, Conclusion.LOWER) else "Not established"
    about = (
        "difference from the control" if answer.topic == AGAINST_CONTROL else f"effect of {factor_words(answer.topic)}"
    )
    return [Card(value=words, label=about)]


def _score_card(report: Report, analysis: Analysis) -> list[Card]:
    asked = {run.name for run in report.runs if is_asked_about(run)}
    scale = scale_of(analysis)
    own = sorted(score.value for score in analysis.scores if score.run in asked)
    others = sorted({score.value for score in analysis.scores if score.run not in asked})
    if not own:
        return []
    texts = [scale.value(value) for value in own]
    at_top = texts.count(texts[-1])
    rest = f"; control{'s' if len(others) > 1 else ''} {_range(others, scale)}" if others else ""
    if at_top == len(texts) > 1:
        return [Card(value=f"{len(texts):,} runs tie", label=f"at {texts[0]} {analysis.score}{rest}")]
    ties = f", {at_top:,} tie at the top" if at_top > 1 else ""
    return [Card(value=_range(own, scale), label=f"{analysis.score} of {plural(len(own), 'run')}{ties}{rest}")]


def _range(values: Sequence[float], scale: Scale) -> str:
    """Return `85.0 to 90.4%`, or one value."""
    ends = scale.value(values[0]), scale.value(values[-1])
    return ends[0] if ends[0] == ends[1] else scale.span(values[0], values[-1])
