"""Rules on a project's plan: time limits and packing of its scripts and configs against what the plan says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Final

from touchline.backends.registry import launch_commands
from touchline.core.finding import Severity
from touchline.lint.config_set import FolderView, Sibling, TextFile, planned_runs, run_name, runs_of
from touchline.lint.rule import Violation, rule
from touchline.slurm.script import Script, read_script
from touchline.slurm.scripts import time_limit_seconds

_UNITS: Final = dict(zip("dhms", (86400.0, 3600.0, 60.0, 1.0), strict=True))
_PART: Final = re.compile(
    r"(\d+(?:\.\d+)?)(?:\s*(?:-|–|to)\s*\d+(?:\.\d+)?)?\s*\+?\s*"
    r"(d(?:ays?)?|h(?:ours?|rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)\b",
    re.IGNORECASE,
)
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d\d):(\d\d)")
_TIME: Final = re.compile(r"time|duration|hours|minutes|runtime", re.IGNORECASE)
_LIMIT: Final = re.compile(r"limit|deadline|per step|s/step|eval|max|wall", re.IGNORECASE)
_PACKING: Final = re.compile(r"pack(ed|ing)", re.IGNORECASE)


@rule("EX158", Severity.WARNING)
def time_limit_below_plan(view: FolderView) -> Iterator[Violation]:
    """Report a job's time limit below the time that its plan names."""
    for each in view.scripts:
        place = PurePath(each.path)
        plans = [plan for folder in place.parents[:2] for plan in _plans_in(view, folder)]
        script = read_script(each.text, each.path, launch_commands())
        limit = script.asked("time")
        seconds = None if limit is None or limit.value is None else time_limit_seconds(limit.value)
        if limit is None or not seconds or not _trains(script) or "eval" in place.name.lower():
            continue
        names = (place.parent.name, place.stem, script.value("job-name") or "")
        for plan in plans:
            planned = _planned_seconds(plan, names)
            if planned is not None and seconds < planned:
                yield Violation(
                    message=f"--time={limit.value} is {_shown(seconds)}, and {PurePath(plan.path).name} expects "
                    f"{_shown(planned)}",
                    at=script.where(limit.line, limit.column),
                    hint=f"--time={_clock(1.5 * planned)}",
                    subject="time",
                )
            if planned is not None:
                break


def _plans_in(view: FolderView, folder: PurePath) -> list[TextFile]:
    """Return the plans of a folder, plan.json before Markdown."""
    found = [plan for plan in view.plans if PurePath(plan.path).parent == folder]
    return sorted(found, key=lambda plan: not plan.path.endswith(".json"))


def _trains(script: Script) -> bool:
    return any(launch.is_long for launch in script.launches) or "touchline.run" in script.text


def _planned_seconds(plan: TextFile, names: tuple[str, ...]) -> float | None:
    """Return the planned time of a run: `train_seconds` of plan.json, or the time column of a table in Markdown."""
    if plan.path.endswith(".json"):
        times = [run.get("train_seconds") for name, run in planned_runs(plan).items() if name in names]
        value = times[0].get("value") if times and isinstance(times[0], Mapping) else None
        return float(value) if isinstance(value, int | float) else None
    header: list[str] = []
    for line in plan.text.splitlines():
        cells = [cell.strip(" `*") for cell in line.strip().strip("|").split("|")] if "|" in line else []
        if not cells or not header:
            header = cells
        elif any(name in cells for name in names):
            for title, cell in zip(header, cells, strict=False):
                seconds = _seconds(cell) if _TIME.search(title) and not _LIMIT.search(title) else None
                if seconds:
                    return seconds
    return None


def _seconds(text: str) -> float | None:
    """Return a time: `3 h`, `1 h 30 min`, `2-3 hours` (its lower bound), `01:30:00`."""
    if (clock := _CLOCK.search(text)) is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    return sum(float(number) * _UNITS[unit[0].lower()] for number, unit in _PART.findall(text)) or None


def _shown(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"


def _clock(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


@rule("EX153", Severity.WARNING)
def packing_differs_from_plan(view: FolderView) -> Iterator[Violation]:
    """Report packing on which a plan and its config disagree."""
    for each in runs_of(view) if view.plans else ():
        packed, plan = each.stated.packed, _plan_above(view, each)
        if packed is None or plan is None:
            continue
        name = PurePath(plan.path).name
        if plan.path.endswith(".json"):
            train = planned_runs(plan).get(run_name(each), {}).get("train")
            said = train.get("packed") if isinstance(train, Mapping) else None
            if isinstance(said, bool) and said != packed.value:
                yield Violation(
                    message=f"{name} has packed: {str(said).lower()} for {run_name(each)}, and the config says "
                    f"{packed.key}: {str(packed.value).lower()}",
                    at=packed,
                    hint=f"{packed.line_with(str(said).lower())}, or plan again",
                    severity=Severity.ERROR,
                )
        elif packed.value and not _PACKING.search(plan.text):
            yield Violation(
                message=f"{run_name(each)} packs, but {name} does not mention packing: its batch sizes and times "
                "are those of a training without",
                at=packed,
                hint="plan again with packing, or packed: false",
            )


def _plan_above(view: FolderView, each: Sibling) -> TextFile | None:
    """Find the nearest plan above a config; plan.json before runs_plan.md."""
    return next((plan for folder in PurePath(each.path).parents for plan in _plans_in(view, folder)), None)
