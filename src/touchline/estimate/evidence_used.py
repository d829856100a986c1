"""Past runs that an estimate used, and the reasons why it did not use the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from touchline.core.estimate import PastRunGroup, PastRunsUsed, PastUse, TrainingSetup
from touchline.core.machine import TargetMachine, machine_text
from touchline.core.quantity import Missing
from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.estimate import evidence_memory, points
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.history_points import PastRun
from touchline.estimate.points import TimePoint, as_requested, doubts, model_key
from touchline.estimate.terms import place
from touchline.estimate.time import implausible

BOTH: Final[tuple[PastUse, ...]] = ("time", "memory")
_MOST_NAMES = 100
_SHOWN = 3
_MOST_GROUPS = 4
"""Groups in the line; all are in the JSON."""
_CLOSE = math.log(1.25)
"""Logarithm of measured over predicted memory within which a run is left out for closer ones, not for its figure."""
_CLOSER = "closer runs are used instead"
_NOTHING = "no run is estimated"
_WORDS: Final = {
    "adapter_dtype": "adapter dtype",
    "target_modules": "target modules",
    "nested_scales": "nested scales",
    "accumulates": "gradient accumulation",
    "gradient_checkpointing": "gradient checkpointing",
    "compiled": "compilation",
    "release": "trainer version",
}
"""Names of settings that differ from those of `TrainingSetup`."""


_FIRST: Final = frozenset({"trainer", "method", "adapter type"})
"""Settings on which others depend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Reason why a run is not evidence."""

    text: str
    """Text with `{}` for each figure."""
    figures: tuple[float, ...] = ()


def evidence_used(
    runs: Sequence[PastRun],
    others: Iterable[PastRunGroup],
    *,
    setups: Sequence[TrainingSetup],
    machine: TargetMachine,
    time: Collection[str] | None,
    memory: Collection[str],
    predict: Callable[[MeasuredPoint], float | None],
) -> PastRunsUsed:
    """Return which past runs were used, and why not the others.

    Args:
        others: past runs that were not read, with the reasons.
        time: names of the runs that the times are based on; None if no time was asked for.
        predict: returns the memory, GiB, that a past run's settings predict without past runs.
    """
    used: dict[PastUse, list[PastRun]] = {"time": [], "memory": []}
    reasons: dict[PastUse, dict[int, Reason]] = {"time": {}, "memory": {}}
    for number, run in enumerate(runs):
        why: dict[PastUse, Reason | None] = {"memory": _not_for_memory(run, setups, memory, predict)}
        if time is not None:
            why["time"] = _not_for_time(run, setups, machine, time)
        for use, reason in why.items():
            if reason is None:
                used[use].append(run)
            else:
                reasons[use][number] = reason
    rest = list(others)
    return PastRunsUsed(
        found=len(runs) + sum(group.count for group in rest),
        time=tuple(run.name for run in used["time"]),
        memory=tuple(run.name for run in used["memory"]),
        left_out=(*_groups(runs, reasons), *rest),
        assumed=_assumed(used, setups),
    )


def group_of(names: Sequence[str], reason: str, of: tuple[PastUse, ...]) -> PastRunGroup:
    """Return a group of past runs."""
    return PastRunGroup(count=len(names), runs=tuple(names[:_MOST_NAMES]), of=of, reason=reason)


def evidence_line(found: PastRunsUsed) -> str:
    """Return the past runs in one line: how many were found and used, and why not the others."""
    if not found.found:
        return "No past runs found"
    uses: dict[PastUse, tuple[str, ...]] = {"time": found.time, "memory": found.memory}
    used = (f"{len(names)} for {use}{_named(names)}" for use, names in uses.items())
    parts = [f"{plural(found.found, 'past run')} found, used: {', '.join(used)}"]
    for of, words in ((BOTH, "Not used"), (("time",), "Not for time"), (("memory",), "Not for memory")):
        groups = sorted((group for group in found.left_out if group.of == of), key=lambda group: -group.count)
        texts = [f"{group.count} ({group.reason})" for group in groups[:_MOST_GROUPS]]
        if rest := sum(group.count for group in groups[_MOST_GROUPS:]):
            texts.append(f"{rest} for other reasons")
        if texts:
            parts.append(f"{words}: {', '.join(texts)}")
    for group in found.assumed:
        parts.append(f"Assumed equal to this plan (not in {plural(group.count, 'log')}): {group.reason}")
    return ". ".join(parts)


def _named(names: tuple[str, ...]) -> str:
    return f" ({first_of(names, _SHOWN)})" if names else ""


def _not_for_time(
    run: PastRun, setups: Sequence[TrainingSetup], machine: TargetMachine, used: Collection[str]
) -> Reason | None:
    point = run.time
    if isinstance(point, Missing):
        return Reason(text=_literal(point.missing))
    first: Reason | None = None
    for setup in _nearest(point, setups):
        reason = _time_reason(point, setup, machine)
        if reason is None:
            return None if point.name in used else Reason(text=_CLOSER if used else "the estimates were made before")
        first = first or reason
    return first or Reason(text=_NOTHING)


def _time_reason(point: TimePoint, setup: TrainingSetup, machine: TargetMachine) -> Reason | None:
    if place(point.machine) != place(machine.key):
        return Reason(text=_literal(f"on {machine_text(point.machine)}, here {machine_text(machine.key)}"))
    (asked,) = as_requested([point], setup)
    if reason := _difference(points.stack_settings(asked.setup), points.stack_settings(setup)):
        return reason
    wrong = implausible(asked, setup, machine)
    return None if wrong is None else Reason(text=_literal(wrong))


def _not_for_memory(
    run: PastRun,
    setups: Sequence[TrainingSetup],
    used: Collection[str],
    predict: Callable[[MeasuredPoint], float | None],
) -> Reason | None:
    if isinstance(run.memory, Missing):
        return Reason(text=_literal(run.memory.missing))
    point = run.memory[0]
    settings, first = evidence_memory.stack_settings, None
    for setup in _nearest(point, setups):
        (asked,) = as_requested([point], setup)
        reason = _difference(settings(asked.setup), settings(setup))
        if reason is None:
            return None if run.name in used else _figure(run.memory, setup, predict, closer=bool(used))
        first = first or reason
    return first or Reason(text=_NOTHING)


def _figure(
    measured: Sequence[MeasuredPoint],
    setup: TrainingSetup,
    predict: Callable[[MeasuredPoint], float | None],
    *,
    closer: bool,
) -> Reason:
    """Return the measured and the predicted memory, unless they agree and closer runs were used."""
    pairs = [(point.peak_gib, predicted) for point in as_requested(measured, setup) if (predicted := predict(point))]
    if not pairs:
        return Reason(text="its memory is not estimated")
    worst = max(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1])))
    if closer and abs(math.log(worst[0] / worst[1])) < _CLOSE:
        return Reason(text=_CLOSER)
    return Reason(text="{} GiB in the log, but these settings predict {}", figures=worst)


def _nearest(point: TimePoint | MeasuredPoint, setups: Sequence[TrainingSetup]) -> list[TrainingSetup]:
    own = model_key(point.setup.shape)
    return sorted(setups, key=lambda setup: model_key(setup.shape) != own)


def _difference(theirs: Mapping[str, object], ours: Mapping[str, object]) -> Reason | None:
    differing = [name for name in ours if theirs[name] != ours[name]]
    if not differing:
        return None
    # The others follow from these.
    differing = [name for name in differing if name in _FIRST] or differing
    texts = (f"{name} {_value(theirs[name])}, here {_value(ours[name])}" for name in differing[:_SHOWN])
    return Reason(text=_literal("; ".join(texts)))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "default" if value is None else ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _groups(runs: Sequence[PastRun], reasons: Mapping[PastUse, Mapping[int, Reason]]) -> list[PastRunGroup]:
    """Return the runs by reason. One that is left out of both for the same reason is named once."""
    found: dict[tuple[str, tuple[PastUse, ...]], list[int]] = {}
    for use in BOTH:
        for number, reason in reasons[use].items():
            same = all(each.get(number) is not None and each[number].text == reason.text for each in reasons.values())
            numbers = found.setdefault((reason.text, BOTH if same else (use,)), [])
            if number not in numbers:
                numbers.append(number)
    groups: list[PastRunGroup] = []
    for (text, of), numbers in found.items():
        figures = [reasons[of[0]][number].figures for number in numbers]
        ranges = [_range(values) for values in zip(*figures, strict=True)]
        groups.append(group_of([runs[number].name for number in numbers], text.format(*ranges), of))
    return groups


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _assumed(used: Mapping[PastUse, Sequence[PastRun]], setups: Sequence[TrainingSetup]) -> tuple[PastRunGroup, ...]:
    """Return the used runs that do not state all settings, by these settings.

    Of settings that hardly anybody changes, only another value than the usual one is named.
    """
    found: dict[str, dict[int, str]] = {}
    for runs in used.values():
        for run in runs:
            points_ = (run.time, *(() if isinstance(run.memory, Missing) else run.memory))
            point = next(point for point in points_ if not isinstance(point, Missing))
            nearest = _nearest(point, setups)[:1]
            if unstated := [name for setup in nearest for name in doubts(point, setup)]:
                found.setdefault(", ".join(_WORDS.get(name, name) for name in unstated), {})[id(run)] = run.name
    return tuple(group_of(list(names.values()), reason, BOTH) for reason, names in found.items())
