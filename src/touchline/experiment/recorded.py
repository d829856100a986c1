"""experiment.yaml compared with the plan that was made from it: overrides of the plan, and edits of the file since."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from touchline.experiment.document import Path, parse
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan
from touchline.experiment.read import LoadedExperiment, apply_overrides, override_path, settings_digest
from touchline.experiment.validate import adapter, build, dotted_keys
from touchline.experiment.write import literal

ALLOW = "allow"
"""Key of ignored codes. They change no run, so that losing one starts nothing."""
COMMAND_LINE = "command line"
"""Source of a setting that is given as an override."""
_SHOWN = 4
"""Differences that a line names before it counts the others."""
_ABSENT = object()
_GROUPS = frozenset({"", "factors", *(key.rpartition(".")[0] for key in dotted_keys(Experiment))})
"""Keys whose values are settings with overrides of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingDifference:
    """Setting with another value than in the recorded plan."""

    path: Path
    value: object
    """Value now; `None` may also stand for a factor that is gone."""
    source: str
    """Source of the value now: a line of the file, the command line, or the default."""
    planned: object
    by_override: bool
    """Whether the recorded plan has it from an override."""

    @property
    def key(self) -> str:
        """Return the dotted key."""
        return ".".join(map(str, self.path))

    @property
    def text(self) -> str:
        """Return both values with their sources."""
        recorded = f"{literal(self.planned)}{' (override)' if self.by_override else ''}"
        return f"{self.key}: {literal(self.value)} ({self.source}), recorded {recorded}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChanges:
    """Differences between experiment.yaml, with the overrides given now, and the recorded plan."""

    differences: tuple[SettingDifference, ...]
    restoring: tuple[str, ...]
    """Overrides with which the present file gives the recorded plan."""
    is_complete: bool
    """False if the plan does not record its file, as that of version 0.1.0, or this version cannot read it."""

    @property
    def any(self) -> bool:
        """Return whether the plan of now would be another one."""
        return bool(self.differences) or not self.is_complete

    @property
    def dropped(self) -> tuple[SettingDifference, ...]:
        """Return the settings of recorded overrides that are neither in force now nor given again."""
        own = (each for each in self.differences if each.by_override and each.path != (ALLOW,))
        return tuple(each for each in own if each.source != COMMAND_LINE)

    @property
    def text(self) -> str:
        """Return the differences on one line."""
        if not self.is_complete:
            return "the recorded plan lacks the settings of its experiment.yaml"
        more = len(self.differences) - _SHOWN
        lines = [each.text for each in self.differences[:_SHOWN]]
        return "; ".join((*lines, *([f"{more} more settings differ"] if more > 0 else ())))


def is_as_planned(text: str, path: str, plan: Plan) -> bool:
    """Return True if the settings of the file are those that were planned.

    Raises:
        InputError: the text is not YAML.
    """
    return _planned_file(parse(text, path).data, plan) is not None


def _planned_file(file: dict[str, Any], plan: Plan) -> dict[str, Any] | None:
    """Return the settings of the file if they are those that were planned."""
    if plan.file_settings is not None:
        return file if file == plan.file_settings else None
    return file if settings_digest(apply_overrides(file, plan.overrides)[0]) == plan.experiment_sha256 else None


def compare_with_plan(loaded: LoadedExperiment, plan: Plan) -> FileChanges:
    """Compare an experiment as read now with the plan on disk."""
    planned_file = plan.file_settings or _planned_file(loaded.document.data, plan)
    data = None if planned_file is None else apply_overrides(planned_file, plan.overrides)[0]
    before = None if data is None else build(Experiment, data, loaded.document)[0]
    if before is None:
        return FileChanges(differences=(), restoring=plan.overrides, is_complete=False)
    differing = _differing(_full(loaded.experiment), _full(before))
    found = tuple(_difference(loaded, plan, *each) for each in differing)
    restoring = plan.overrides
    if _planned_file(loaded.document.data, plan) is None:
        restoring = tuple(f"{each.key}={literal(each.planned)}" for each in found)
    return FileChanges(differences=found, restoring=restoring, is_complete=True)


def override_lines(plan: Plan) -> Iterator[str]:
    """Yield a line for each override of a plan, with its date and the file's value, and for each run edited by hand."""
    for override in plan.overrides:
        value: object = _ABSENT if plan.file_settings is None else plan.file_settings
        for part in override_path(override.partition("=")[0]):
            value = value.get(str(part), _ABSENT) if isinstance(value, Mapping) else _ABSENT
        known = "" if plan.file_settings is None else "not set" if value is _ABSENT else literal(value)
        key, _, given = override.partition("=")
        date = f", given on {plan.override_dates[override]}" if override in plan.override_dates else ""
        yield f"override: {key} = {given}{date}{f' (experiment.yaml: {known})' if known else ''}"
    for run in plan.runs:
        if run.accepted:
            edits = ", ".join(f"{key} = {literal(value)}" for key, value in run.accepted.items())
            yield f"override: {edits} for {run.name}, accepted from its setup_finetune.yaml"


def unused_override_lines(plan: Plan) -> Iterator[str]:
    """Yield the line that names the overrides of a plan where the file alone is read; none without overrides."""
    if plan.overrides:
        yield f"read without the overrides of the last plan: {', '.join(plan.overrides)}"


def _difference(loaded: LoadedExperiment, plan: Plan, path: Path, value: object, planned: object) -> SettingDifference:
    is_set = loaded.document.states(path)
    given = any(_overlap(override_path(each.partition("=")[0]), path) for each in loaded.overrides)
    where = loaded.document.where(path)
    return SettingDifference(
        path=path,
        value=value,
        source=COMMAND_LINE if given else f"{where.path}:{where.line}" if is_set else "default",
        planned=planned,
        by_override=any(_overlap(override_path(each.partition("=")[0]), path) for each in plan.overrides),
    )


def _overlap(one: Path, other: Path) -> bool:
    """Return True if one path is the other or leads to it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _full(experiment: Experiment) -> dict[str, Any]:
    """Return all settings, defaults included, as plain data."""
    data: dict[str, Any] = json.loads(adapter(Experiment).dump_json(experiment))
    return data


def _differing(now: Any, before: Any, path: Path = ()) -> Iterator[tuple[Path, object, object]]:
    """Yield the settings that differ, with both values. A mapping with a new key differs as a whole, because no
    override removes a key.
    """
    mappings = isinstance(now, dict) and isinstance(before, dict)
    if mappings and ".".join(map(str, path)) in _GROUPS and set(now) <= set(before):
        for key, value in before.items():
            yield from _differing(now.get(key), value, (*path, key))
    elif now != before:
        yield path, now, before
