"""A figure as data: one Vega-Lite spec, drawn by a browser in report.html and as a PNG for RESULTS.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure of a report."""

    name: str
    """Name of its file under figures/, without suffix; unique in a report."""
    section: str
    """The section of the report that it stands in: `findings`, `training`, `cost`, `estimates`, `storage`."""
    title: str
    """Its heading."""
    caption: str
    """What is drawn, and how to read it."""
    spec: dict[str, object]
    """The Vega-Lite spec, its data inside."""
