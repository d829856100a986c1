"""Embedding of JSON, scripts, styles and colors in the page without being parsed as markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from markupsafe import Markup

from touchline.report.colors import GRID, INK, MUTED, WHITE, SeriesColor

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_TOKENS = {INK: "ink", MUTED: "muted", GRID: "grid", WHITE: "card"}
"""Colors of the figures that the page sets, by the name of the CSS variable."""
_LIGHT = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "paper": WHITE,
    "card": "#f6f8fa",
    "rule": "#dfe3e8",
    "mark": "#fff4d6",
    "good": "#0b6e4f",
    "bad": "#b3261e",
    "warn": "#c77700",
    "link": "#0a58a8",
}
_DARK = {
    "ink": "#e6e9ee",
    "muted": "#a2abb8",
    "grid": "#323944",
    "paper": "#12161c",
    "card": "#1a2028",
    "rule": "#323944",
    "mark": "#3a3320",
    "good": "#6fd3ad",
    "bad": "#ff9a90",
    "warn": "#f2b04a",
    "link": "#84bcff",
}


def embedded_json(value: object) -> Markup:
    """Return JSON that cannot end its script element, for any model output."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_escaped(text))  # noqa: S704


def embedded_spec(spec: dict[str, object], inks: Sequence[SeriesColor]) -> Markup:
    """Return a figure's spec with the page's color variables, which differ for dark mode and print."""
    text = json.dumps(spec, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    names = _TOKENS | {ink.light: f"k{ink.number}" for ink in inks}
    for colour, name in names.items():
        text = text.replace(f'"{colour}"', f'"var(--{name})"')
    return Markup(_escaped(text))  # noqa: S704


def inlined(code: str, tag: str) -> tuple[Markup, str]:
    """Return a script or style as an element of the page, and its hash for the content security policy."""
    text = code.replace("\r\n", "\n").replace("\r", "\n").replace(f"</{tag}", f"<\\/{tag}").replace("<!--", "<\\!--")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"  # noqa: S704


def colours(inks: Sequence[SeriesColor]) -> str:
    """Return the color variables for light and dark mode. Print is always light."""
    light = _LIGHT | {f"k{ink.number}": ink.light for ink in inks}
    dark = _DARK | {f"k{ink.number}": ink.dark for ink in inks}
    classes = "".join(f".k{ink.number}{{--own:var(--k{ink.number})}}" for ink in inks)
    return (
        f":root{{color-scheme:light;{_variables(light)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{_variables(dark)}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{_variables(dark)}}}}}\n{classes}\n"
    )


def _variables(values: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in values.items())


def _escaped(text: str) -> str:
    for char, escape in _UNSAFE.items():
        text = text.replace(char, escape)
    return text
