"""Figures as data: Vega-Lite specs, drawn by a browser and as PNG files. They need the extra `report`."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from touchline.core.errors import install_hint

if TYPE_CHECKING:
    import altair

FIGURES_OFF = f"Figures are off: the extra `report` is not installed ({install_hint('report')})."
"""Text of a report that replaces its figures."""


def off_because(fault: str) -> str:
    """Return a message that figures are off although the drawing library is installed."""
    return f"Figures are off: {fault}. The rest of the report does not depend on them."


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Figure of a report."""

    name: str
    """File name under figures/, without suffix; unique in a report."""
    section: str
    """Section of the report: `findings`, `scores`, `training`, `estimates`."""
    title: str
    caption: str
    spec: dict[str, object]


WIDTH = 680  # Width in pixels of a figure whose spec takes the width of its container
SCALE = 2  # Pixels of the picture per pixel of the figure, so that it is sharp on high-density screens
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
FELT = "felt"  # Name of layers that only receive pointer events


def figures_off() -> str:
    """Return the reason why there are no figures. Empty if there are."""
    here = all(importlib.util.find_spec(name) is not None for name in ("altair", "vl_convert"))
    return "" if here else FIGURES_OFF


def png(figure: Mapping[str, object]) -> bytes:
    """Return a figure as a picture, in the light colors.

    Call it only if `figures_off()` is empty, and in a process of its own (`report.local.draw_process`), since it may
    abort.
    """
    import vl_convert

    spec = still(figure)
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    # A white background keeps dark text readable on a dark page.
    picture: bytes = vl_convert.vegalite_to_png(json.dumps(spec | {"background": "#ffffff"}), scale=SCALE)
    return picture


def altair_chart(chart: Chart) -> altair.LayerChart:
    """Return a figure for a notebook: as wide as a picture, on white paper, with its title."""
    import altair

    # Dark text stays readable on a dark page.
    of_its_own = {"width": WIDTH, "background": "#ffffff", "title": chart.title}
    made: altair.LayerChart = altair.LayerChart.from_dict(chart.spec | of_its_own)
    return made


def still(spec: Mapping[str, object]) -> dict[str, object]:
    """Return the spec without its interactive parts.

    An opacity per mark creates a layer per mark, and a picture of a thousand curves takes minutes. If no run is
    highlighted, all marks of a kind have the same opacity, and that of their strokes and fills looks alike.
    """
    made = dict(spec)
    layers = made.get("layer")
    if isinstance(layers, list):
        made["layer"] = [_plain(layer) for layer in layers if layer.get("name") != FELT]
    return made


def _plain(layer: Mapping[str, object]) -> dict[str, object]:
    made = dict(layer)
    encoding = made.get("encoding")
    if isinstance(encoding, dict):
        kept = {channel: how for channel, how in encoding.items() if channel not in ("opacity", "tooltip")}
        shown = _shown(encoding.get("opacity"))
        if shown < 1:
            kept |= {"strokeOpacity": {"value": shown}, "fillOpacity": {"value": shown}}
        made["encoding"] = kept
    return made


def _shown(opacity: object) -> float:
    """Return the opacity of marks if no run is highlighted."""
    if not isinstance(opacity, dict):
        return 1.0
    conditions = opacity.get("condition")
    first = conditions[0] if isinstance(conditions, list) and conditions else conditions
    value = first.get("value") if isinstance(first, dict) else opacity.get("value")
    return float(value) if isinstance(value, int | float) else 1.0


@functools.cache
def figure_script() -> str:
    """Return the script, about 0.9 MB. Building it from vl-convert's bundle takes a few seconds.

    It can be cached, since it depends only on the installed version of vl-convert. Call it only if
    `figures_off()` is empty.
    """
    import vl_convert

    script: str = vl_convert.javascript_bundle(_SNIPPET)
    return script
