"""Files of the trends over past experiments: a page, or Markdown."""

from __future__ import annotations

from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.files import disk_errors, write_if_changed
from touchline.core.table import section_markdown
from touchline.plan.trends import Trends
from touchline.report.figures import figures_off, off_because
from touchline.report.trends import TITLE, trend_sections

_PAGES, _MARKDOWN = (".html", ".htm"), (".md", ".markdown")


def trends_markdown(found: Trends) -> str:
    """Return the trends in Markdown."""
    sections = [text for section in trend_sections(found) if (text := section_markdown(section))]
    return "\n".join([f"# {TITLE}\n", *sections])


def check_target(target: Path) -> None:
    """Refuse a file whose suffix names no format.

    Raises:
        InputError: with the suffixes that do.
    """
    if target.suffix.lower() not in (*_PAGES, *_MARKDOWN) or target.is_dir():
        raise InputError(
            f"trends cannot be written to {str(target)!r}",
            expected="a file that ends in .html or .md",
            hint="touchline history trends --out trends.html",
        )


def write_trends(found: Trends, target: Path, *, cache: Path | None = None) -> str:
    """Write the trends as a page or as Markdown, by the suffix of the file.

    Args:
        found: the trends.
        target: the file.
        cache: directory for the page's drawing program, which takes seconds to build; None: not cached.

    Returns:
        The reason why there are no figures; empty if there are, and for Markdown.

    Raises:
        InputError: the suffix names no format.
        HostError: the file cannot be written.
    """
    check_target(target)
    if target.suffix.lower() in _MARKDOWN:
        with disk_errors("trends", target):
            write_if_changed(target, trends_markdown(found))
        return ""
    page, note = _page(found, cache)
    with disk_errors("trends", target):
        write_if_changed(target, page)
    return note


def _page(found: Trends, cache: Path | None) -> tuple[str, str]:
    from touchline.report.local.reporting import drawing_program
    from touchline.report.page.trends import trends_html

    if off := figures_off():
        return trends_html(found, (), {}, figures_off=off), off
    try:
        from touchline.report.charts.trends import trend_charts, trend_inks
    except (ImportError, MemoryError) as error:
        off = off_because(f"altair cannot be loaded ({type(error).__name__}: {error})")
        return trends_html(found, (), {}, figures_off=off), off
    charts = trend_charts(found)
    script, fault = drawing_program(cache) if charts else (None, "")
    off = off_because(fault) if fault else ""
    return trends_html(found, charts, trend_inks(found), script=script, figures_off=off), off
