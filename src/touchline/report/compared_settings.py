"""Settings of runs as text by dotted key: those that differ between experiments, and those that identify runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import PurePath

from touchline.core.levels import Level
from touchline.core.quantity import Missing
from touchline.experiment.experiment import as_written
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.experiment.settings import COLLECTED
from touchline.results.run_result import RunResult, Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentSummary:
    """Experiment, as input of a comparison."""

    label: str
    root: str
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan, or of the first log; empty when unknown."""
    runs: tuple[RunResult, ...]
    settings: dict[str, dict[str, str]]
    """Resolved settings by run, as text by dotted key."""
    unread: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Runs that a strategy cut: they have no final result to compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingRow:
    """Setting that differs between experiments."""

    key: str
    """Dotted key of experiment.yaml, or another property: `versions.torch`, `device`, `test split`."""
    values: tuple[tuple[str, ...] | None, ...]
    """Values among the runs, by experiment; None if unknown."""


MODEL, SEED = "models", "seeds"  # Keys of a run's base model and training seed, as in the levels of a design
DEVICE = "device"  # Key of the device that a run was trained on
_TRAINED = ("train", "validation")  # Splits that a training reads, and their keys under `data`
_DIGITS = 12  # Number of hash digits shown


def planned_settings(plan: Plan, run: PlannedRun) -> dict[str, str]:
    """Return the resolved settings of a run."""
    found = {MODEL: run.model, SEED: str(run.seed), "task": plan.task}
    found |= {f"data.{key}": value for key, value in _flat(replace(run.data, test=None))}
    # The path of a file differs between experiments. The hashes of the splits identify its content.
    found |= {key: PurePath(file).name for key, file in run.data.files.items()}
    found |= {f"evaluate.{key}": value for key, value in _flat(run.evaluate)}
    if run.train is not None:
        found |= {f"train.{key}": value for key, value in _flat(run.train)}
    if run.batches is not None:
        found["train.micro_batch_size"] = str(run.batches.micro_batch_size)
        found["train.gradient_accumulation_steps"] = str(run.batches.gradient_accumulation_steps)
    if run.link is not None:
        found |= {f"stages.{key}": value for key, value in _flat(run.link)}
    found |= {"compute.executor": plan.executor, "compute.gpus_per_run": str(plan.gpus_per_run)}
    found |= {"touchline": plan.touchline_version, "date": plan.date}
    model, dataset = plan.models.get(run.model), plan.datasets.get(run.dataset)
    if model is not None:
        sha256 = model.weights_sha256
        found["base weights (sha256)"] = str(sha256) if isinstance(sha256, Missing) else sha256[:_DIGITS]
    # With test files, what an untrained model is asked does not depend on what others train on.
    unread = _TRAINED if run.train is None and run.data.test is not None else ()
    for name in unread:
        found.pop(f"data.{name}", None)
    for split in () if dataset is None else dataset.named_splits:
        if split.name in unread:
            continue
        found[f"{split.name} split (sha256)"] = split.sha256[:_DIGITS]
        found[f"{split.name} split (examples)"] = str(split.num_examples)
    # A stage is a level and not a setting.
    return {level.factor: level.value for level in run.levels} | found


def found_settings(config: Mapping[str, Setting], levels: Sequence[Level]) -> dict[str, str]:
    """Return the known settings of a run that touchline did not plan, under the same keys."""
    found = {COLLECTED.get(key, key): _text(value) for key, value in config.items() if value is not None}
    return {level.factor: _number(level.value) for level in levels} | found


def setting_rows(sides: Sequence[ExperimentSummary]) -> tuple[list[SettingRow], int]:
    """Return the settings that differ, by key, and the number of those that are the same wherever they are known."""
    known = [_values(side) for side in sides]
    rows: list[SettingRow] = []
    same = 0
    for key in sorted(set().union(*known)):
        values = [each.get(key) for each in known]
        stated = [set(each) for each in values if each is not None]
        if any(each != stated[0] for each in stated):
            rows.append(SettingRow(key=key, values=tuple(values)))
        elif len(stated) > 1:
            same += 1
    return rows, same


def matching_keys(sides: Sequence[ExperimentSummary]) -> tuple[str, ...]:
    """Return the keys that identify conditions: factors of a design of which two experiments share values.

    A key without shared values describes how the experiments differ and is not used for matching. Keys that follow from
    a level are excluded, such as a micro-batch size from the memory that a rank needs. The model is always first. The
    seed, if seeds are shared, is last.
    """
    known = [_values(side) for side in sides]
    varied = {level.factor for side in sides for run in side.runs for level in run.levels} - {MODEL, SEED}
    keys = [MODEL]
    for key in sorted(varied):
        if _is_shared(known, key) and not any(_follows(sides, key, other) for other in keys):
            keys.append(key)
    return (*keys, *([SEED] if _is_shared(known, SEED) else []))


def _is_shared(known: Sequence[Mapping[str, Sequence[str]]], key: str) -> bool:
    values = [set(each[key]) for each in known if key in each]
    return any(one & other for number, one in enumerate(values) for other in values[number + 1 :])


def _follows(sides: Sequence[ExperimentSummary], key: str, other: str) -> bool:
    """Return True if runs with one value of `other` all have one value of `key`, in every experiment."""
    seen: dict[str | None, str | None] = {}
    for settings in (each for side in sides for each in side.settings.values() if key in each):
        if seen.setdefault(settings.get(other), settings[key]) != settings[key]:
            return False
    return True


def _values(side: ExperimentSummary) -> dict[str, tuple[str, ...]]:
    """Return the values among the runs by key, in order. Controls count only if no run trains."""
    trained = {run.name for run in side.runs if run.kind is not RunKind.CONTROL and run.control is None}
    found: dict[str, dict[str, None]] = {}
    for name, settings in side.settings.items():
        for key, value in settings.items() if not trained or name in trained else ():
            found.setdefault(key, {})[value] = None
    return {key: tuple(values) for key, values in found.items()}


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) of every field of a settings dataclass. Unset fields are `-`."""
    if not is_dataclass(value):
        yield prefix, _text(value)
        return
    for each in fields(value):
        key = as_written(each.name)
        yield from _flat(getattr(value, each.name), f"{prefix}.{key}" if prefix else key)


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(repr(value))
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value)
    return str(value)


def _number(text: str) -> str:
    """Return a number in one spelling: `1e-3` and `0.001` are equal. Other text is unchanged."""
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:.12g}"
