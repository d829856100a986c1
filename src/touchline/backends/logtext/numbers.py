"""Numbers as people and programs print them: `29,933,568`, `1.026e+04`, `4.19M`, `14.748 GB`, `0:50:01.40`."""

from __future__ import annotations

import math
import re

NUMBER = r"(?:[-+]?(?:\d{1,3}(?:[,_]\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?)"
"""A finite number, with or without thousands separators; for building patterns of lines."""
_NUMBER = re.compile(NUMBER)
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_SIZES_IN_GIB = {
    "b": 1 / 1024**3,
    "bytes": 1 / 1024**3,
    "kib": 1 / 1024**2,
    "mib": 1 / 1024,
    "gib": 1.0,
    "tib": 1024.0,
}
_CLOCK = re.compile(r"(?:(\d+) days?, )?(?:(\d+):)?(\d{1,3}):(\d{2}(?:\.\d+)?)")


def to_number(value: object) -> float | None:
    """Return a finite number of an int, a float, or text in any form above; None for everything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _finite(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return _finite(float(text.replace(",", "").replace("_", "")))
    if text and text[-1].lower() in _SCALES and _NUMBER.fullmatch(text[:-1]):
        return _finite(float(text[:-1].replace(",", "").replace("_", "")) * _SCALES[text[-1].lower()])
    return None


def _finite(value: float) -> float | None:
    """Return the number as a float; None if it is out of range."""
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def to_count(value: object) -> int | None:
    """Return a whole number of at least 0, or None."""
    number = to_number(value)
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def not_a_number(value: object) -> bool:
    """Return True if a row holds nan or an infinity, as a number or as text."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, str) and value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")


def to_gib(value: float, unit: str) -> float | None:
    """Return GiB of a size in B, KiB, MiB or GiB; None for GB and MB, whose meaning varies."""
    scale = _SIZES_IN_GIB.get(unit.lower())
    return None if scale is None else value * scale


def to_seconds(text: str) -> float | None:
    """Return the seconds of `41:53`, `1:02:03`, `0:50:01.40`, `1 day, 2:03:04`; None for everything else."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = match.groups()
    return int(days or 0) * 86400.0 + int(hours or 0) * 3600.0 + int(minutes) * 60.0 + float(seconds)
