"""PNG versions of the figures, for RESULTS.md. They need the extra `report`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping

from touchline.report.figures import FIGURES_OFF

WIDTH = 680
"""Width in pixels of a figure whose spec takes the width of its container."""
SCALE = 2
"""Pixels of the picture per pixel of the figure, so that it is sharp on high-density screens."""
FELT = "felt"
"""Name of layers that only receive pointer events."""


def figures_off() -> str:
    """Return the reason why there are no figures. Empty if there are."""
    here = all(importlib.util.find_spec(name) is not None for name in ("altair", "vl_convert"))
    return "" if here else FIGURES_OFF


def png(figure: Mapping[str, object]) -> bytes:
    """Return a figure as a picture, in the light colors.

    Call it only if `figures_off()` is empty, and in a process of its own (`touchline.report.local.draw`), since it may
    abort.

    Args:
        figure: its Vega-Lite spec.
    """
    import vl_convert

    spec = still(figure)
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    # A white background keeps dark text readable on a dark page.
    picture: bytes = vl_convert.vegalite_to_png(json.dumps(spec | {"background": "#ffffff"}), scale=SCALE)
    return picture


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
