"""Resources that a job script requests in its `#SBATCH` lines, read as sbatch does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from touchline.core.observation import Event, Observation, ObservationName
from touchline.core.units import minutes_to_seconds

GRAIN = minutes_to_seconds(1)
"""SLURM counts limits in whole minutes, and may send `--signal` up to a minute early (sbatch(1))."""
_DIRECTIVE = re.compile(r"#SBATCH\s+(?P<options>\S.*)")
_TIME = re.compile(
    r"(?:(?P<days>\d{1,4})-(?P<day_hours>\d{1,3})(?::(?P<day_minutes>\d{1,2}))?(?::(?P<day_seconds>\d{1,2}))?"
    r"|(?:(?P<hours>\d{1,5}):(?=\d{1,2}:))?(?P<minutes>\d{1,7})(?::(?P<seconds>\d{1,2}))?)"
)
_GPUS = re.compile(r"(?:(?P<gres>gres[/:])?gpu[:=])?(?:(?P<type>[A-Za-z_][\w.-]*)[:=])?(?P<count>\d{1,5})(?:\(\S*\))?")
_SHORT = {"-t": "--time", "-N": "--nodes", "-G": "--gpus", "-n": "--ntasks"}
_READ = frozenset(
    {"--time", "--nodes", "--ntasks", "--gres", "--gpus", "--gpus-per-node", "--gpus-per-task", "--tres-per-node"}
)


def time_limit_seconds(text: str) -> float | None:
    """Return seconds of SLURM's `MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`; None for `UNLIMITED`."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    part = {name: int(value or 0) for name, value in match.groupdict().items()}
    hours = part["days"] * 24 + part["day_hours"] + part["hours"]
    minutes = part["day_minutes"] + part["minutes"]
    seconds = hours * 3600.0 + minutes * 60.0 + part["day_seconds"] + part["seconds"]
    return seconds or None  # a time of 0 asks for no limit


def read_sbatch(text: str) -> tuple[Event, ...]:
    """Return the requested time limit, GPUs and GPU type; a job may use fewer.

    Like sbatch, it stops at the script's first command, and a later directive replaces an earlier one.
    """
    asked: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            break
        if (directive := _DIRECTIVE.match(line)) is not None:
            asked.update((name, (value, number)) for name, value in _options(directive.group("options")).items())
    return (*_time(asked), *_gpus(asked))


def _options(text: str) -> dict[str, str]:
    """Return the long names and values of the options of one directive."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # a quote that does not end
        words = text.split()
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, value = word.partition("=")
        elif word[:2] in _SHORT:
            name, equals, value = _SHORT[word[:2]], word[2:], word[2:].removeprefix("=")
        else:
            continue
        if not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        if name in _READ and value:
            found[name] = value
    return found


def _time(asked: Mapping[str, tuple[str, int]]) -> tuple[Event, ...]:
    value, number = asked.get("--time", ("", 0))
    seconds = time_limit_seconds(value)
    return () if seconds is None else (_observation("time_limit_seconds", seconds, number, unit="s", certain=True),)


def _gpus(asked: Mapping[str, tuple[str, int]]) -> tuple[Event, ...]:
    """Return the GPUs of the whole job, by sbatch's order of precedence."""
    for option, per in (
        ("--gpus", None),
        ("--gpus-per-node", "--nodes"),
        ("--gres", "--nodes"),
        ("--tres-per-node", "--nodes"),
        ("--gpus-per-task", "--ntasks"),
    ):
        if option not in asked:
            continue
        value, number = asked[option]
        count, kind = _count(value, gres=option in ("--gres", "--tres-per-node"))
        times = 1 if per is None else _times(asked.get(per, ("1", 0))[0])
        events: list[Event] = []
        if count is not None and times is not None:
            events.append(_observation("gpus", float(count * times), number))
        if kind is not None:
            events.append(_observation("gpu", kind, number))
        if events:
            return tuple(events)
    return ()


def _count(value: str, *, gres: bool) -> tuple[int | None, str | None]:
    """Return the number and type of GPUs in `gpu:a100:2`, `a100:2`, `2`, `gpu`; several types are summed."""
    total, kinds = 0, set[str]()
    for part in value.split(","):
        if gres and not re.match(r"(?:gres[/:])?gpu(?:[:=]|$)", part):
            continue
        if gres and re.fullmatch(r"(?:gres[/:])?gpu(?:[:=][A-Za-z_][\w.-]*)?", part):
            kinds.update(part.split("gpu", 1)[1].strip(":=").split())
            total += 1
        elif (match := _GPUS.fullmatch(part)) is not None:
            total += int(match.group("count"))
            kinds.update(() if match.group("type") is None else (match.group("type"),))
    return total or None, kinds.pop() if len(kinds) == 1 else None


def _times(value: str) -> int | None:
    """Return the nodes or tasks; None for a range such as `2-4`."""
    return int(value) if re.fullmatch(r"[1-9]\d{0,5}", value) else None


def _observation(
    name: ObservationName, value: float | str, number: int, *, unit: str = "1", certain: bool = False
) -> Observation:
    return Observation(name=name, value=value, unit=unit, line=number, certain=certain)
