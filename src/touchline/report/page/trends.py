"""Page of the trends over past experiments, in the style of report.html."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from touchline.core.quantity import Missing
from touchline.plan.trends import Trends
from touchline.report.colors import CONTROL, SeriesColor, series_colors, used
from touchline.report.figures import Chart
from touchline.report.page import Card, _environment, _figures, _policy, _source
from touchline.report.page.cells import page_table
from touchline.report.page.embedding import colours, embedded_spec, inlined
from touchline.report.trends import TITLE, trend_sections, trends_line

_IDS = ("scores", "estimates", "left-out")
"""Anchors of the sections, in their order."""


def trends_html(
    found: Trends,
    charts: Sequence[Chart],
    inks: Mapping[str, SeriesColor],
    *,
    script: str | None = None,
    figures_off: str = "",
) -> str:
    """Return the page: one file without network requests. The same trends give the same text.

    Args:
        found: the content.
        charts: the figures.
        inks: the colors of the figures.
        script: the program that draws in a browser; None without charts, or if figures are off.
        figures_off: reason why there are no figures; empty if there are.
    """
    drawn = bool(charts) and not figures_off
    own_inks = used({**series_colors(["coverage"]), **inks, "": CONTROL})
    scripts: list[tuple[Markup, str]] = []
    if drawn and script is not None:
        scripts.append(inlined(script, "script"))
    scripts.append(inlined(_source("page.js"), "script"))
    style, style_hash = inlined(colours(own_inks) + _source("page.css"), "style")
    sections = [
        {
            "id": name,
            "title": section.title,
            "paragraphs": section.paragraphs,
            "tables": [page_table(table) for table in section.tables],
        }
        for name, section in zip(_IDS, trend_sections(found), strict=True)
        if not section.is_empty
    ]
    text = (
        _environment()
        .get_template("trends.html.j2")
        .render(
            title=TITLE,
            line=trends_line(found),
            policy=_policy([digest for _, digest in scripts], style_hash),
            style=style,
            scripts=[code for code, _ in scripts],
            figures=_figures(charts) if drawn else {},
            specs=[(chart.name, embedded_spec(chart.spec, own_inks)) for chart in charts] if drawn else [],
            figures_off=figures_off,
            cards=list(_cards(found)),
            sections=sections,
            groups={"scores": ("scores", "costs"), "estimates": ("estimates",)},
            base=None,
        )
    )
    # Lone surrogates cannot be encoded as UTF-8, and NUL is not allowed in HTML.
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _cards(found: Trends) -> Iterator[Card]:
    """Yield the size of the history."""
    yield Card(value=f"{found.records:,}", label="record" if found.records == 1 else "records")
    if not isinstance(found.trends, Missing):
        points = [point for trend in found.trends for point in trend.points]
        yield Card(value=f"{len({point.experiment for point in points}):,}", label="scored experiments")
        yield Card(value=f"{len({trend.model for trend in found.trends}):,}", label="base models")
    if not isinstance(found.calibration, Missing):
        held = sum(each.row.held for each in found.calibration)
        count = sum(each.row.count for each in found.calibration)
        yield Card(value=f"{held:,}/{count:,}", label="intervals that held")
