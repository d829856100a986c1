"""Numbers, durations, sizes and scores as people read them, and back; all output writes them here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from touchline.core.errors import InputError
from touchline.core.quantity import Measured, Missing, Quantity, finite

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


def format_minutes(minutes: float) -> str:
    """Return a duration in minutes as `format_seconds` does."""
    return format_seconds(60 * minutes)


def format_bytes(size_bytes: float) -> str:
    """Return a size as `655 KiB` or `1.25 GiB`, in binary units."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


_IN_WORDS: dict[str, Callable[[float], str]] = {
    "s": format_seconds,
    "min": format_minutes,
    "B": format_bytes,
    "MB": lambda size: format_bytes(1e6 * size),
    "GB": lambda size: format_bytes(1e9 * size),
}
"""Units whose figures people read in others."""


def between(low: float | None, high: float | None, words: Callable[[float], str]) -> str:
    """Return ` (86.0 to 93.5)`, the one form of an interval; empty without both finite ends."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f" ({words(low)} to {words(high)})"


def is_at_least(value: Measured) -> bool:
    """Return True if a value is a lower bound."""
    return isinstance(value, Quantity) and value.low == value.value and value.high is None


def measured(value: Measured, digits: int = 4) -> str:
    """Return `0.02345`, `4:41`, `5.06 MiB (5 to 5.1)` or `n/a (reason)`."""
    value = finite(value)
    if isinstance(value, Missing):
        return str(value)
    if value.unit == "h":
        return device_hours(value)
    least = "at least " if is_at_least(value) else ""
    if words := _IN_WORDS.get(value.unit):
        text, ends = words(value.value), between(value.low, value.high, words)
        unit = text[text.rfind(" ") :]
        same = value.unit in ("B", "MB", "GB") and ends.count(unit) == 2
        return f"{least}{text}{ends.replace(unit, '') if same else ends}"
    unit = {"1": "", "%": "%"}.get(value.unit, f" {value.unit}")
    number = f"{value.value:,.{digits}g}" if abs(value.value) < 10**digits else f"{value.value:,.0f}"
    if number == "1" and unit[-2:] not in ("/s", " s"):
        unit = unit.removesuffix("s")
    return f"{least}{number}{unit}{between(value.low, value.high, lambda end: f'{end:.{digits}g}')}"


def bare(value: Measured, digits: int = 4) -> str:
    """Return a value with its unit and without its interval, or `n/a (reason)`."""
    return measured(value if isinstance(value, Missing) else replace(value, low=None, high=None), digits)


def device_hours(hours: Measured, unit: str = "h") -> str:
    """Return `0.29 GPU-hours (0.19 to 0.49)`; below a tenth of an hour in minutes, `2.7 GPU-minutes (2 to 3.4)`.

    Args:
        hours: the compute, in hours.
        unit: its unit, of `hours_unit`; `h` where a column names the device.
    """
    hours = finite(hours)
    if isinstance(hours, Missing):
        return str(hours)
    per, unit = (60, "min" if unit == "h" else unit.replace("hours", "minutes")) if hours.value < 0.1 else (1, unit)
    least = "at least " if is_at_least(hours) else ""
    number = f"{per * hours.value:.3g}" if per * hours.value < 999.5 else f"{per * hours.value:,.0f}"
    ends = between(hours.low, hours.high, lambda end: f"{per * end:.2g}" if per * end < 99.5 else f"{per * end:,.0f}")
    if number == "1":
        unit = unit.replace("hours", "hour").replace("minutes", "minute")
    return f"{least}{number} {unit}{ends}"


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


def hours_unit(device: str) -> str:
    """Return the unit of compute: `GPU-hours`, `device-hours (CPU)`, or `device-hours` if the device is unknown."""
    return {"GPU": "GPU-hours", "CPU": "device-hours (CPU)"}.get(device, "device-hours")


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage: `90.5%`."""
    return f"{100 * share:.{digits}f}%"


_SHARES = ("match", "accuracy", "correct")
"""Parts of the names of scores that are shares of right answers, also averaged over repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Format of an analysis's scores: shares in per cent and points, all others unchanged."""

    share: bool

    def value(self, score: float) -> str:
        """Return `90.5%`, or `0.905`."""
        return percent(score) if self.share else f"{score:.3f}"

    def quantity(self, score: Quantity | Missing, counted: str = "") -> str | Missing:
        """Return `90.5% (85.6 to 93.8)`, with counts inside the parentheses."""
        if isinstance(score, Missing):
            return score
        ends = between(score.low, score.high, self.end)
        return self.value(score.value) + (f"{ends[:-1]}; {counted})" if ends and counted else ends)

    def span(self, low: float, high: float) -> str:
        """Return `85.6 to 93.8%`, or `0.856 to 0.938`."""
        return f"{self.end(low)} to {self.end(high)}" + ("%" if self.share else "")

    def end(self, score: float) -> str:
        """Return an end of an interval of scores, without a unit."""
        return f"{100 * score:.1f}" if self.share else f"{score:.3f}"

    def change(self, value: float) -> str:
        """Return a difference with its sign and without a unit: `+70.0`, or `+0.700`."""
        return _signed(100 * value, 1) if self.share else _signed(value, 3)

    def size(self, difference: float) -> str:
        """Return `8.2 points`, without a sign."""
        return f"{100 * difference:.1f} points" if self.share else f"{difference:.3f}"

    def difference(self, value: float) -> str:
        """Return `+70.0 points`, or `+0.700`."""
        return self.change(value) + (" points" if self.share else "")

    def possible(self, low: float, high: float) -> tuple[float, float]:
        """Return the possible part of a difference's interval: no shares differ by more than 100 points."""
        return (max(low, -1.0), min(high, 1.0)) if self.share else (low, high)

    def ends(self, low: float, high: float) -> str:
        """Return the possible part of a difference's interval: `+62.4 to +75.9`."""
        return " to ".join(map(self.change, self.possible(low, high)))


def scale_of_score(name: str, means: Iterable[float], *, is_binary: bool) -> Scale:
    """Return the scale of a score, the same on every surface: a score of its own is no share, though it be 0 to 1.

    Args:
        name: its name.
        means: the runs' scores.
        is_binary: whether every item is right or wrong.
    """
    return Scale(share=is_binary or (any(word in name for word in _SHARES) and all(0 <= mean <= 1 for mean in means)))


def _signed(value: float, digits: int) -> str:
    """Return a value with its sign. A value that rounds to 0 is `+0.0`, never `-0.0`."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
