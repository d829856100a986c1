"""Colors of the figures. The page replaces them with its own variables."""

from __future__ import annotations

INK, MUTED, GRID, WHITE = "#1d2430", "#5f6773", "#e2e6ea", "#ffffff"
"""Colors of text, secondary text, grid lines and background."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"

CONFIG: dict[str, object] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titlePadding": 8,
        "labelLimit": 220,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": MUTED,
        "labelFontSize": 11,
        "symbolSize": 70,
        "labelLimit": 260,
        "orient": "top",
        "rowPadding": 2,
        "offset": 8,
    },
}
