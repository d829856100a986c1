"""Colors of a report, light and dark: a hue and a shape per base model, a shade per setting, grey for controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.levels import settings_words
from touchline.report.facts import is_asked_about
from touchline.report.report import Report

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
"""Marker shapes, one per base model."""
_HUES = ((232, 264), (66, 38), (150, 172), (345, 325), (102, 82), (302, 286), (28, 16), (200, 222))
"""Angles in OKLCH: blue, orange, green, purple, yellow, violet, red, cyan. A hue shifts slightly as it darkens."""
_CHROMA = 0.15
_LIGHT_PAPER = (0.75, 0.4)  # Lightness of the first and the last setting of a model. Later settings are darker
_DARK_PAPER = (0.54, 0.82)
_MANY_HUES = (95, 290)
_ALONE_LIGHT, _ALONE_DARK = 0.55, 0.74
"""Lightness if a model has one setting, or if each setting has a hue of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesColor:
    """Color of one setting."""

    number: int
    """Number from 0; controls share 0."""
    label: str
    model: str
    light: str
    dark: str
    shape: str


CONTROL = SeriesColor(number=0, label="control", model="", light="#7a7f87", dark="#9aa0a8", shape="circle")
"""Color of controls: grey for every model."""


def models(report: Report) -> tuple[str, ...]:
    """Return the base models, in the order of the runs."""
    return tuple(dict.fromkeys(run.model for run in report.runs))


def inks(report: Report) -> dict[str, SeriesColor]:
    """Return the color of each run, by name. Runs that differ only in their seed share one."""
    settings = _settings(report)
    names = models(report)
    made: dict[tuple[str, str], SeriesColor] = {}
    for place, model in enumerate(names):
        own = list(dict.fromkeys(key for key in settings.values() if key[0] == model))
        for index, key in enumerate(own):
            light, dark = _pair(place, index, len(own), alone=len(names) == 1)
            label = " ".join(part for part in (key[0] if len(names) > 1 else "", key[1]) if part) or key[0]
            shape = SHAPES[place % len(SHAPES)]
            made[key] = SeriesColor(number=len(made) + 1, label=label, model=model, light=light, dark=dark, shape=shape)
    return {run.name: made[settings[run.name]] if run.name in settings else CONTROL for run in report.runs}


def used(given: dict[str, SeriesColor]) -> tuple[SeriesColor, ...]:
    """Return the distinct colors, in order."""
    return tuple(sorted({ink.number: ink for ink in given.values()}.values(), key=lambda ink: ink.number))


def _settings(report: Report) -> dict[str, tuple[str, str]]:
    """Return (model, its levels as text) of each run that is not a control."""
    return {
        run.name: (run.model, "" if (words := settings_words(run.levels)) == "-" else words)
        for run in report.runs
        if is_asked_about(run)
    }


def _pair(model: int, index: int, count: int, *, alone: bool) -> tuple[str, str]:
    if count == 1 or (alone and count <= len(_HUES)):
        hue = sum(_HUES[(index if alone else model) % len(_HUES)]) / 2
        return _hex(_ALONE_LIGHT, _CHROMA, hue), _hex(_ALONE_DARK, _CHROMA, hue)
    share = index / (count - 1)
    # One hue cannot distinguish many settings. If it is the only one, its range is wider, from yellow to violet.
    hue = _between(_MANY_HUES if alone else _HUES[model % len(_HUES)], share)
    return _hex(_between(_LIGHT_PAPER, share), _CHROMA, hue), _hex(_between(_DARK_PAPER, share), _CHROMA, hue)


def _between(ends: Sequence[float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def _hex(lightness: float, chroma: float, hue: float) -> str:
    """Return an OKLCH color as sRGB (Ottosson 2020), with less chroma if it is outside the gamut."""
    red_green, yellow_blue = (chroma * f(math.radians(hue)) for f in (math.cos, math.sin))
    long = (lightness + 0.3963377774 * red_green + 0.2158037573 * yellow_blue) ** 3
    middle = (lightness - 0.1055613458 * red_green - 0.0638541728 * yellow_blue) ** 3
    short = (lightness - 0.0894841775 * red_green - 1.2914855480 * yellow_blue) ** 3
    channels = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    if chroma > 0 and not all(-1e-4 <= channel <= 1 + 1e-4 for channel in channels):
        return _hex(lightness, max(0.0, chroma - 0.01), hue)
    return "#" + "".join(f"{round(255 * _gamma(min(1.0, max(0.0, channel)))):02x}" for channel in channels)


def _gamma(channel: float) -> float:
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055


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
