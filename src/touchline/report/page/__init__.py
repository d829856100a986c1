"""report.html: one file that opens from disk, makes no network requests, and runs only its own scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from jinja2.filters import do_urlencode
from markupsafe import Markup

from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.units import hours_unit
from touchline.report.colors import CONTROL, SeriesColor, inks, used
from touchline.report.facts import is_asked_about
from touchline.report.figures import Chart
from touchline.report.formatting import is_at_least, scale_of
from touchline.report.page.browser import browser_data
from touchline.report.page.cells import ROWS_LIMIT, heading, page_table
from touchline.report.page.embedding import colours, embedded_json, embedded_spec, inlined
from touchline.report.report import Report
from touchline.report.tables.checkpoints import checkpoint_section, every_checkpoint, storage_section
from touchline.report.tables.claims import claims_section
from touchline.report.tables.runs import runs_table, settings_section
from touchline.report.tables.scores import scores_section
from touchline.report.tables.training import cost_section, training_section
from touchline.statistics.conclusions import Analysis
from touchline.statistics.statements import Statement

SAMPLES = "samples.jsonl"
"""File beside the page with every answer."""
_ISSUES_SHOWN = 8
_ISSUES_MOST = 200
"""Maximum number of each kind in the page. RESULTS.md has all of them."""


def report_html(
    report: Report,
    charts: Sequence[Chart],
    *,
    script: str | None = None,
    figures_off: str = "",
    base: str | None = ".",
) -> str:
    """Return the page. The same report gives the same text.

    Args:
        report: the content.
        charts: the figures.
        script: `report.page.scripts.figure_script()`; None without charts, or if figures are off.
        figures_off: reason why there are no figures; empty if there are.
        base: relative path from the page's folder to the experiment's, for links to files; None: no links.
    """
    drawn = bool(charts) and not figures_off
    given = inks(report)
    own_inks = used({**given, "": CONTROL})
    scripts: list[tuple[Markup, str]] = []
    if drawn and script is not None:
        scripts.append(inlined(script, "script"))
    scripts.append(inlined(_source("page.js"), "script"))
    style, style_hash = inlined(colours(own_inks) + _source("page.css"), "style")
    browser = browser_data(report, SAMPLES)
    text = _template().render(
        report=report,
        policy=_policy([digest for _, digest in scripts], style_hash),
        style=style,
        scripts=[code for code, _ in scripts],
        figures=_figures(charts) if drawn else {},
        specs=[(chart.name, embedded_spec(chart.spec, own_inks)) for chart in charts] if drawn else [],
        figures_off=figures_off,
        cards=cards(report),
        issues=_issues(report),
        remarks=_by_topic(report.remarks),
        analysis_notes=dict.fromkeys(str(note) for analysis in report.analyses for note in analysis.notes),
        commands=_by_group(report),
        runs=page_table(runs_table(report), given, limit=None),
        sections=_sections(report, given),
        every_checkpoint=page_table(every_checkpoint(report, ROWS_LIMIT), given),
        files=[facts for facts in report.facts if facts.files],
        browser=browser,
        browser_json=None if browser is None else embedded_json(browser),
        base=base,
    )
    # Lone surrogates in a model's output cannot be encoded as UTF-8, and NUL is not allowed in HTML.
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _sections(report: Report, colors: Mapping[str, SeriesColor]) -> dict[str, object]:
    """Return the sections that RESULTS.md also has, by their place on the page."""
    made = {
        "claims": claims_section(report),
        "scores": scores_section(report),
        "training": training_section(report),
        "cost": cost_section(report),
        "settings": settings_section(report),
        "checkpoints": checkpoint_section(report),
        "storage": storage_section(report),
    }
    strategy = report.strategy_section()
    if strategy is not None:
        made["strategy"] = strategy
    return {"strategy": None} | {
        name: {
            "title": section.title,
            "paragraphs": section.paragraphs,
            "tables": [page_table(table, colors) for table in section.tables],
        }
        for name, section in made.items()
    }


def _template() -> jinja2.Template:
    return _environment().get_template("page.html.j2")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("touchline.report.page", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = _address
    environment.filters["heading"] = heading
    return environment


def _address(path: str) -> str:
    """Return a path as part of a link, with any characters escaped."""
    return do_urlencode(path.encode("utf-8", "replace").decode("utf-8"))


def _source(name: str) -> str:
    """Return the text of a stylesheet or script of touchline."""
    environment = _environment()
    if environment.loader is None:
        raise AssertionError("the environment has a loader")
    return environment.loader.get_source(environment, name)[0]


def _policy(scripts: Sequence[str], style: str) -> str:
    """Return the content security policy: no loading, and only the scripts already in the page run."""
    return (
        f"default-src 'none'; script-src {' '.join(scripts)}; style-src {style}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


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


def _by_topic(statements: Sequence[Statement]) -> dict[str, list[Statement]]:
    made: dict[str, list[Statement]] = {}
    for statement in statements:
        made.setdefault(statement.topic, []).append(statement)
    return made


def _by_group(report: Report) -> dict[str, list[object]]:
    made: dict[str, list[object]] = {}
    for command in report.commands:
        made.setdefault(command.group, []).append(command)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Figure at the top of the page."""

    value: str
    """Value of the figure."""
    label: str
    """Label of the figure."""
    kind: str = ""
    """`bad` or `warn` if it needs attention."""
    run: str | None = None
    """Run of the figure."""


def cards(report: Report) -> tuple[Card, ...]:
    """Return the completed runs, the highest score and its difference from its control, the cost, and the warnings."""
    cut = sum(run.cut_after_step is not None for run in report.runs)
    ended = f"runs complete, {cut:,} cut" if cut else "runs complete"
    made = [Card(value=f"{report.completed:,}/{len(report.runs) - cut:,}", label=ended)]
    if (decided := report.strategy_cards()) is not None:
        made += [Card(value=value, label=label) for value, label in decided]
    elif report.analyses:
        made += _score_cards(report, report.analyses[0])
    hours = report.device_hours
    if not isinstance(hours, Missing):
        planned = report.device_hours_planned
        what = "predicted" if report.strategy is None else f"predicted without {report.strategy.stopping}"
        said = "" if isinstance(planned, Missing) else f"; {what} {planned.value:.3g}"
        made.append(
            Card(
                value=f"{'≥ ' if is_at_least(hours) else ''}{hours.value:.3g}",
                label=f"{hours_unit(report.device)}{said}",
            )
        )
    for weight, noun, kind in ((Severity.ERROR, "error", "bad"), (Severity.WARNING, "warning", "warn")):
        number = sum(issue.weight is weight for issue in report.issues)
        if number:
            made.append(Card(value=f"{number:,}", label=noun if number == 1 else f"{noun}s", kind=kind))
    return tuple(made)


def _score_cards(report: Report, analysis: Analysis) -> list[Card]:
    asked = {run.name for run in report.runs if is_asked_about(run)}
    scale = scale_of(analysis)
    best = max((s for s in analysis.scores if s.run in asked), key=lambda score: score.value, default=None)
    if best is None:
        return []
    made = [Card(value=scale.value(best.value), label=f"highest: {best.run}", run=best.run)]
    compared = next((comparison for comparison in analysis.comparisons if comparison.run == best.run), None)
    if compared is not None:
        found = compared.difference
        ends = scale.ends(found.low, found.high)
        made.append(Card(value=scale.difference(found.value), label=f"over its control, {ends}", run=best.run))
    return made
