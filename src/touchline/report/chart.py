"""Figure as data: one Vega-Lite spec, drawn by a browser in report.html and as a PNG for RESULTS.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Figure of a report."""

    name: str
    """File name under figures/, without suffix; unique in a report."""
    section: str
    """Section of the report: `findings`, `training`, `cost`, `estimates`, `storage`."""
    title: str
    """Heading of the figure."""
    caption: str
    """Content of the figure and how to read it."""
    spec: dict[str, object]
    """Vega-Lite spec with its data."""
