"""Rules on a project's plan: time limits and packing of its scripts and configs against what the plan says."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from touchline.backends.registry import launch_commands
from touchline.core.finding import Severity
from touchline.lint.config_set import FolderView, Sibling, TextFile, planned_runs, run_name, runs_of
from touchline.lint.rule import Violation, rule
from touchline.slurm.resources import time_limit_seconds
from touchline.slurm.script import Script, read_script

_UNITS: Final = dict(zip("dhms", (86400.0, 3600.0, 60.0, 1.0), strict=True))
_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_PART: Final = re.compile(
    rf"{_NUMBER}(?:\s*(?:-|–|to)\s*\d+(?:\.\d+)?)?\s*\+?\s*(d(?:ays?)?|h(?:ours?|rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)\b",
    re.IGNORECASE,
)
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d\d):(\d\d)")
_TIME: Final = re.compile(r"time|duration|hours|minutes|runtime|takes", re.IGNORECASE)
_LIMIT: Final = re.compile(
    r"limit|deadline|per step|s/step|eval|at most|max|allow|wall|queue|partition|every", re.IGNORECASE
)
_EXPECTS: Final = re.compile(
    r"estimate|expect|planned|predicted|training (?:time|takes)|runs? (?:takes|for)", re.IGNORECASE
)
_EACH: Final = re.compile(r"\b(?:each|per run|a run|every run)\b", re.IGNORECASE)
_GOES_ON: Final = re.compile(r"--requeue|scontrol\s+requeue|touchline\.launch|resume_from_checkpoint", re.IGNORECASE)
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Planned:
    """Planned time of a run."""

    seconds: float
    """Expected time."""
    least: float
    """Lower bound of the time."""
    where: str
    """Description of the source."""


@rule("EX158", Severity.WARNING)
def time_limit_below_plan(view: FolderView) -> Iterator[Violation]:
    """Report a job's time limit below the time that its plan or a comment names."""
    plans = {str(PurePath(plan.path).parent): plan for plan in sorted(view.plans, key=_told_by_numbers)}
    for each in view.scripts:
        place = PurePath(each.path)
        plan = plans.get(str(place.parent.parent)) or plans.get(str(place.parent))
        if "eval" in place.name.lower():
            continue
        script = read_script(each.text, each.path, launch_commands())
        limit = script.asked("time")
        seconds = None if limit is None or limit.value is None else time_limit_seconds(limit.value)
        names = [place.parent.name, place.stem, script.value("job-name") or ""]
        planned = None if plan is None else _planned(plan, [name for name in names if name])
        planned = planned or _of_comments(script)
        if limit is None or not seconds or planned is None or seconds >= planned.seconds or not _trains(script):
            continue
        sure = seconds < _HALF * planned.least and _GOES_ON.search(each.text) is None
        yield Violation(
            message=f"--time={limit.value} is {_shown(seconds)}, and {planned.where} expects {_shown(planned.seconds)}",
            at=script.where(limit.line, limit.column),
            hint=f"--time={_clock(1.5 * planned.seconds)}",
            subject="time",
            severity=Severity.ERROR if sure else None,
        )


def _trains(script: Script) -> bool:
    return any(launch.is_long for launch in script.launches) or "touchline.run" in script.text


def _told_by_numbers(plan: TextFile) -> bool:
    """Return True for plan.json, so that it replaces the Markdown file beside it."""
    return plan.path.endswith(".json")


def _planned(plan: TextFile, names: list[str]) -> _Planned | None:
    if plan.path.endswith(".json"):
        return _of_json(plan, names)
    file = PurePath(plan.path).name
    header: list[str] = []
    heading = ""
    for number, line in enumerate(plan.text.splitlines(), 1):
        cells = [cell.strip(" `*") for cell in line.strip().strip("|").split("|")] if "|" in line else []
        where = f"{file}, line {number},"
        if not cells:
            header = []
            heading = line if line.startswith("#") else heading
            own = any(_names(line, name) for name in names)
            of_heading = any(_names(heading, name) for name in names) and _TIME.search(line) is not None
            seconds = _seconds(line, "") if (own or of_heading) and not _LIMIT.search(line) else None
            if seconds:
                return _Planned(seconds, seconds, where)
        elif not header:
            header = cells
        elif any(name in cells for name in names):
            for title, cell in zip(header, cells, strict=False):
                seconds = _seconds(cell, title) if _TIME.search(title) and not _LIMIT.search(title) else None
                if seconds:
                    return _Planned(seconds, seconds, where)
    lines = [line for line in plan.text.splitlines() if _EACH.search(line) and "|" not in line]
    stated = [seconds for line in lines if (seconds := _seconds(line, ""))]
    return _Planned(stated[0], stated[0], file) if len(stated) == 1 else None


def _names(line: str, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", line) is not None


def _of_comments(script: Script) -> _Planned | None:
    """Return the time that a comment of the script expects: `# Estimated time: 6 hours`."""
    for number, line in enumerate(script.lines, 1):
        if not line.lstrip().startswith("#") or line.startswith(("#SBATCH", "#!")) or not _EXPECTS.search(line):
            continue
        seconds = None if _LIMIT.search(line) else _seconds(line, "")
        if seconds:
            return _Planned(seconds, seconds, f"line {number}")
    return None


def _of_json(plan: TextFile, names: list[str]) -> _Planned | None:
    for name, run in planned_runs(plan).items():
        if name not in names:
            continue
        time = run.get("train_seconds")
        value, low = (time.get("value"), time.get("low")) if isinstance(time, Mapping) else (None, None)
        if isinstance(value, int | float):
            return _Planned(float(value), float(low) if isinstance(low, int | float) else float(value), "the plan")
    return None


def _seconds(text: str, title: str) -> float | None:
    """Return the time in a cell or a sentence: `3 h`, `1 h 30 min`, `2-3 hours` (its lower bound), `01:30:00`."""
    if (clock := _CLOCK.search(text)) is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    parts = [float(number) * _UNITS[unit[0].lower()] for number, unit in _PART.findall(text)]
    if parts:
        return sum(parts)
    bare = re.fullmatch(rf"[~≈<]?\s*{_NUMBER}", text)
    unit = re.search(r"hours?|\bh\b|minutes?|\bmin\b|seconds?|\bs\b", title, re.IGNORECASE)
    return float(bare[1]) * _UNITS[unit[0][0].lower()] if bare is not None and unit is not None else None


def _shown(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"


def _clock(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


_PACKING_WORD = re.compile(r"pack(ed|ing)", re.IGNORECASE)
_PACKING_SAID = re.compile(
    r"pack(?:ed|ing)\b[\s`*\"']*[:=|]?[\s`*\"']*(true|false|yes|no|on|off|enabled|disabled)\b", re.IGNORECASE
)
_WORD = re.compile(r"[\w.-]*\w")
_YES = frozenset({"true", "yes", "on", "enabled"})
_NO = frozenset({"false", "no", "off", "disabled"})


@rule("EX153", Severity.WARNING)
def packing_differs_from_plan(view: FolderView) -> Iterator[Violation]:
    """Report packing on which a plan and its config disagree."""
    names = frozenset(run_name(run) for run in runs_of(view)) if view.plans else frozenset()
    for each in runs_of(view) if view.plans else ():
        packed, plan = each.stated.packed, _plan_of(view, each)
        if packed is None or plan is None:
            continue
        said = _said_of(plan, each, names)
        place = f"{PurePath(plan.path).name}" + (f", line {said.line}," if said is not None and said.line else "")
        if said is not None and said.packed != packed.value:
            exact = said.of_this_run and (said.packed or plan.path.endswith(".json"))
            yield Violation(
                message=f"{place} states that {run_name(each) if said.of_this_run else 'the runs'} "
                f"{'pack' if said.packed else 'do not pack'}{'s' if said.packed and said.of_this_run else ''}, and the "
                f"config says {packed.key}: {str(packed.value).lower()}",
                at=packed,
                hint=f"{packed.line_with(str(said.packed).lower())}, or plan again",
                severity=Severity.ERROR if exact else None,
            )
        elif said is None and packed.value and not (plan.path.endswith(".json") or _PACKING_WORD.search(plan.text)):
            yield Violation(
                message=f"{run_name(each)} packs, but {PurePath(plan.path).name} does not mention packing: its batch "
                "sizes, steps and times are those of a training without",
                at=packed,
                hint="plan again with packing, or packed: false",
            )


@dataclass(frozen=True, slots=True)
class _Said:
    """A plan's statement on packing."""

    packed: bool
    of_this_run: bool
    line: int | None


def _plan_of(view: FolderView, each: Sibling) -> TextFile | None:
    """Find the nearest plan above a config; plan.json before runs_plan.md."""
    here = PurePath(each.path).parent
    above = [plan for plan in view.plans if here.is_relative_to(PurePath(plan.path).parent)]
    order = sorted(above, key=lambda plan: (-len(PurePath(plan.path).parts), not plan.path.endswith(".json")))
    return order[0] if order else None


def _said_of(plan: TextFile, each: Sibling, names: frozenset[str]) -> _Said | None:
    if plan.path.endswith(".json"):
        train = planned_runs(plan).get(run_name(each), {}).get("train")
        packed = train.get("packed") if isinstance(train, Mapping) else None
        return _Said(packed, of_this_run=True, line=None) if isinstance(packed, bool) else None
    statements = _statements(plan.text, names)
    own = [said for run, said in statements if run == run_name(each)]
    if own:
        return own[-1]
    general = [said for run, said in statements if run is None]
    return general[0] if len({said.packed for said in general}) == 1 else None


@functools.lru_cache(maxsize=8)
def _statements(text: str, names: frozenset[str]) -> tuple[tuple[str | None, _Said], ...]:
    """Return the statements on packing as (run or None for all, statement): `packed: true` under a
    heading, or a column."""
    found: list[tuple[str | None, _Said]] = []
    heading: str | None = None
    column: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        named = max(names.intersection(_WORD.findall(line)), key=len, default=None)
        if line.startswith("#"):
            heading, column = named, None
        if line.lstrip().startswith("|"):
            cells = [cell.strip(" `*") for cell in line.strip().strip("|").split("|")]
            if column is None:
                column = next((i for i, cell in enumerate(cells) if _PACKING_WORD.search(cell)), None)
            elif column < len(cells) and (word := cells[column].casefold()) in _YES | _NO and named is not None:
                found.append((named, _Said(word in _YES, of_this_run=True, line=number)))
            continue
        column = None
        if (said := _PACKING_SAID.search(line)) is not None:
            run = named or heading
            found.append((run, _Said(said[1].casefold() in _YES, of_this_run=run is not None, line=number)))
    return tuple(found)
