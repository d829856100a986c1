"""Seconds, bytes and counts, to text and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from touchline.core.errors import InputError
from touchline.core.quantity import Measured, Missing

MIB = 1024**2
GIB = 1024**3
MIB_PER_GIB = GIB // MIB

_PER_UNIT = (
    {"B": 1.0, "MB": 1e6, "GB": 1e9, "MiB": float(MIB), "GiB": float(GIB)},
    {"s": 1.0, "min": 60.0, "h": 3600.0},
)
"""Bytes and seconds per unit."""
_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def plural(number: int, noun: str, several: str = "") -> str:
    """Return `1 run`, `1,500 steps`."""
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"


def parse_duration(text: str) -> float:
    """Return the seconds of `30min`, `6h`, `1h30m`, `90s`, `2d`.

    Raises:
        InputError: it is none of these.
    """
    compact = text.strip().lower()
    parts = _DURATION.findall(compact)
    rest = _DURATION.sub("", compact).strip()
    if not parts or rest or any(unit not in _SECONDS for _, unit in parts):
        raise InputError(f"{text!r} is not a duration", expected="for example 30min, 6h, 1h30m or 2d")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


_DEVICE_HOURS = ("gpuh", "gpu-hours", "gpu-h", "device-hours")


def parse_device_hours(text: str) -> float:
    """Return the device-hours of `40gpuh`, `40h`, `90min`.

    Raises:
        InputError: it is none of these, or not more than 0.
    """
    expected = "for example 40h, 40gpuh or 90min"
    compact = text.strip().lower().replace(" ", "")
    for suffix in _DEVICE_HOURS:
        if compact.endswith(suffix):
            compact = compact.removesuffix(suffix) + "h"
            break
    try:
        hours = seconds_to_hours(parse_duration(compact))
    except InputError as error:
        raise InputError(f"{text!r} is not a number of device-hours", expected=expected) from error
    if hours <= 0:
        raise InputError(f"{text!r} is not more than 0", expected=expected)
    return hours


def format_seconds(seconds: float) -> str:
    """Return a duration as `12.3 s`, `4:41` or `1:02:03`."""
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_bytes(size_bytes: float) -> str:
    """Return a size as `655 KiB` or `1.25 GiB`, in binary units."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def in_unit(value: Measured, unit: str) -> Measured:
    """Return a size or duration and its interval in another unit; other values are returned unchanged."""
    if isinstance(value, Missing) or value.unit == unit:
        return value
    for per in _PER_UNIT:
        if value.unit in per and unit in per:
            number, low, high = (
                None if each is None else each * per[value.unit] / per[unit]
                for each in (value.value, value.low, value.high)
            )
            assert number is not None
            return replace(value, value=number, low=low, high=high, unit=unit)
    return value


def minutes_to_seconds(minutes: float) -> float:
    """Return minutes in seconds."""
    return 60 * minutes


def seconds_to_hours(seconds: float) -> float:
    """Return seconds in hours."""
    return seconds / 3600


def seconds_to_minutes(seconds: float) -> float:
    """Return seconds in minutes."""
    return seconds / 60


def hours_to_seconds(hours: float) -> float:
    """Return hours in seconds."""
    return 3600 * hours


def hours_unit(device: str) -> str:
    """Return the unit of compute: `GPU-hours`, `device-hours (CPU)`, or `device-hours` if the device is unknown."""
    return {"GPU": "GPU-hours", "CPU": "device-hours (CPU)"}.get(device, "device-hours")


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage: `90.5%`."""
    return f"{100 * share:.{digits}f}%"


def digits_that_keep(value: float, is_met: Callable[[float], bool], digits: int = 2) -> str:
    """Return a number in significant digits, in more of them where rounding would change whether a bound is met.

    79.6 is `80`, but `79.6` next to a target of 80.

    Args:
        value: the number.
        is_met: whether a number meets the bound.
        digits: significant digits otherwise.
    """
    wanted = is_met(value)
    texts = [f"{float(f'{value:.{more}g}'):.{more}g}" for more in range(digits, digits + 4)]
    text = next((each for each in texts if is_met(float(each)) == wanted), repr(value))
    return f"{float(text):g}"
