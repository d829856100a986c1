"""Complete table of the settings of every run, for the plan, the README, the reports and `--json`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from touchline.backends.protocol import FixedSetting
from touchline.backends.registry import backend_names, get_backend
from touchline.core.levels import SEEDS, STAGE
from touchline.core.table import Column, Table, table_of
from touchline.experiment.anchors import drop_unset_files
from touchline.experiment.data_config import TRAINING_KEYS
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.settings import DEFAULTS, LEADING, SETTING, SETTINGS, Setting
from touchline.experiment.validate import adapter

Scalar = bool | int | float | str | None
"""Value of a setting. A list or a mapping is stored as text; None means that nothing is set."""


class Origin(StrEnum):
    """Source of the value of a setting."""

    GIVEN = "given"
    """Written in experiment.yaml, as an override, as a level or accepted for a run."""
    DEFAULT = "default"
    """Not written: touchline's default."""
    DECIDED = "decided"
    """Not written, or `auto`: computed by the planner."""
    FIXED = "fixed"
    """Not a setting of experiment.yaml: the same in every experiment with this trainer."""
    LOGGED = "logged"
    """Read from files of a run that touchline did not plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetting:
    """Row of the table of settings."""

    key: str
    """Dotted key of experiment.yaml; for a computed or fixed setting the key that it would have."""
    name: str
    """Display name, `learning rate`."""
    unit: str | None = None
    """Unit of the value, `tokens`."""
    origin: Origin
    """Source of the value."""
    reason: str | None = None
    """Reason for a default or a decision."""
    varies: bool
    """Whether runs differ in it; if so, `values` holds the value of each run."""
    value: Scalar = None
    """The value of all runs that have this setting; None if it varies or is not set."""
    values: dict[str, Scalar] = field(default_factory=dict)
    """Value by run, of a setting that varies."""
    unset: str = "-"
    """Text for a value that is not set."""


def nested_settings(run: PlannedRun) -> dict[str, object]:
    """Return the settings of a run as setup_finetune.yaml groups them, without those that do not apply to it."""
    groups: dict[str, dict[str, Any]] = {}
    for name, part in (("train", run.train), ("data", run.data), ("evaluate", run.evaluate)):
        if part is not None:
            groups[name] = json.loads(adapter(type(part)).dump_json(part))
    drop_unset_files(groups["data"])
    if run.train is not None and run.train.trains_all:
        del groups["train"]["lora"], groups["train"]["checkpoint"]["save"]
    return {**groups, "seed": run.seed}


def flat_settings(run: PlannedRun) -> dict[str, object]:
    """Return the settings of a run by dotted key. A list, a checkpoint interval or the test sets are one value."""
    flat: dict[str, object] = {}

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict) and prefix not in ("train.checkpoint.every", "data.test"):
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else key)
        else:
            flat[prefix] = node

    walk(nested_settings(run), "")
    return flat


_MICRO, _WARMUP_STEPS, _EPOCHS = "train.micro_batch_size", "train.warmup_steps", "evaluate.epochs"
_BATCHING = (_MICRO, "train.packed")
"""Settings that the planner decides if they are not given, whether or not it says why."""
_COLUMNS = ("data.input", "data.output", "data.messages")
_OF_SPLITS = ("data.train_fraction", "data.split_seed")
_LATER = frozenset(setting.since for setting in SETTINGS if setting.since > 1)
_DECIDED = {setting.key: setting.decided_in for setting in SETTINGS if setting.decided_in is not None}
_COMPUTED = {setting.key: setting.computed for setting in SETTINGS if setting.computed is not None}
_ORDER = {key: place for place, key in enumerate(SETTING)}


def collect_settings(plan: Plan) -> tuple[RunSetting, ...]:
    """Return the settings of all runs of a plan in their declared order, defaults and fixed ones included."""
    reasons = {row.key: row.reason for row in DEFAULTS}
    not_given = {assumption.key for assumption in plan.assumptions}
    # Plans of an earlier version do not list these; there a value that equals the default counts as one.
    unlisted = _LATER - {SETTING[key].since for key in not_given if key in SETTING}
    silent = {row.key: row.value for row in DEFAULTS if row.since in unlisted}
    decided = {key: _shared(getattr(run, field) for run in plan.runs) for key, field in _DECIDED.items()}
    known = {run.name: dict(_settings(plan, run)) for run in plan.runs}
    fixed: dict[str, list[str | None]] = {}
    for setting in (setting for run in plan.runs for setting in _fixed(run)):
        fixed.setdefault(setting.key, []).append(setting.reason)
    levels = {level.factor for run in plan.runs for level in run.levels}

    def origin(key: str, values: Sequence[Scalar]) -> tuple[Origin, str | None]:
        if key in _COMPUTED:
            return Origin.DECIDED, _COMPUTED[key]
        if any(key in run.accepted for run in plan.runs) or (key in levels and key not in not_given):
            return Origin.GIVEN, None
        if key in fixed:
            reason = _shared(fixed[key])
            return (Origin.FIXED if reason is None else Origin.DECIDED), reason
        if key in _BATCHING and key in not_given:
            return Origin.DECIDED, decided[key] or reasons.get(key)
        if key not in _BATCHING and decided.get(key) is not None:
            return Origin.DECIDED, decided[key]
        if key in _COLUMNS and key in not_given:
            return Origin.DECIDED, reasons.get(key)
        # No epoch at all is a value: nothing is evaluated.
        is_unset = key != _EPOCHS and all(each is None for each in values)
        is_default = key in not_given or is_unset or all(value_text(each) == silent.get(key) for each in values)
        return (Origin.DEFAULT, reasons.get(key)) if is_default else (Origin.GIVEN, None)

    return setting_rows(known, origin)


def _shared(reasons: Iterable[str | None]) -> str | None:
    """Return the reason if all runs have the same one, else None."""
    found = {reason for reason in reasons if reason is not None}
    return found.pop() if len(found) == 1 else None


def setting_rows(
    known: Mapping[str, Mapping[str, Scalar]],
    origin: Callable[[str, Sequence[Scalar]], tuple[Origin, str | None]],
) -> tuple[RunSetting, ...]:
    """Return the rows of settings, given the known values of each run.

    Args:
        known: by run the value of each key; a run lacks what does not apply to it.
        origin: from a key and its values to where these come from, and the reason for a default.
    """
    keys = dict.fromkeys(key for settings in known.values() for key in settings)
    found = []
    for key in sorted(keys, key=lambda key: _ORDER.get(key, len(_ORDER))):
        row = SETTING.get(key) or Setting(key, key.rpartition(".")[2].replace("_", " "))
        values = {run: settings[key] for run, settings in known.items() if key in settings}
        distinct = list(dict.fromkeys(map(value_text, values.values())))
        source, reason = origin(key, list(values.values()))
        varies = len(distinct) > 1
        found.append(
            RunSetting(
                key=key,
                name=row.name,
                unit=row.unit,
                origin=source,
                reason=reason,
                varies=varies,
                value=None if varies else next(iter(values.values())),
                values=values if varies else {},
                unset=row.unset,
            )
        )
    return tuple(found)


def settings_table(settings: Sequence[RunSetting]) -> Table | None:
    """Return every setting with its value and origin. Reasons and keys are for wide tables."""
    columns = ("setting", "value", "origin", Column("reason", is_wide=True), Column("key", is_wide=True))
    return table_of(
        columns,
        [
            (setting.name, setting_text(setting), setting.origin.value, setting.reason, setting.key)
            for setting in settings
        ],
    )


def varying_table(settings: Sequence[RunSetting], runs: Sequence[str]) -> Table | None:
    """Return the settings that vary, one row per run. None if none varies."""
    varying = [setting for setting in settings if setting.varies]
    columns: list[Column | str] = [Column("run", code=True), *(each.name for each in varying)]
    rows = [(run, *(setting_cell(each, run) for each in varying)) for run in runs] if varying else []
    return table_of(columns, rows, "Settings that vary", by_run=True)


def setting_cell(setting: RunSetting, run: str) -> str:
    """Return the value of a run as text, or `-` if the run has no such setting."""
    if not setting.varies:
        return _with_unset(setting, setting.value)
    return _with_unset(setting, setting.values[run]) if run in setting.values else "-"


def setting_text(setting: RunSetting) -> str:
    """Return `0.001`, `128 tokens`, or for a varying setting `4 or 64`."""
    texts = dict.fromkeys(_with_unset(setting, value) for value in setting.values.values())
    if not setting.varies:
        text = _with_unset(setting, setting.value)
        return f"{text} {setting.unit}" if setting.unit and setting.value is not None else text
    shown = [text for text in texts if len(text) <= _SHOWN_CHARACTERS]
    if len(texts) > _SHOWN_VALUES or len(shown) < len(texts):
        return f"{len(texts)} values, see the table of runs"
    # A list of values that hold commas reads as one longer list.
    joined = (" | " if any("," in text for text in texts) else ", ").join(sort_naturally(texts))
    return f"{joined}{f' {setting.unit}' if setting.unit else ''} (varies)"


_SHOWN_VALUES = 8
_SHOWN_CHARACTERS = 60


def leading_text(settings: Sequence[RunSetting], run: str | None = None) -> str:
    """Return `learning rate 0.001, epochs 1, ...` for one run or for all. Empty if no value is known."""
    by_key = {setting.key: setting for setting in settings}
    parts = []
    for key in LEADING:
        each = by_key.get(key)
        text = "-" if each is None else setting_text(each) if run is None else setting_cell(each, run)
        if each is not None and text != "-":
            parts.append(f"{each.name} {text}")
    return ", ".join(parts)


def sort_naturally(texts: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Return texts sorted by number if all are numbers, otherwise in the given order."""
    found = list(texts)
    try:
        numbers = [float(text) for text in found]
    except ValueError:
        return found
    return found if any(map(math.isnan, numbers)) else sorted(found, key=float)


def value_text(value: Scalar) -> str:
    """Return a value as written in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)


def _with_unset(setting: RunSetting, value: Scalar) -> str:
    return setting.unset if value is None else value_text(value)


def _settings(plan: Plan, run: PlannedRun) -> Iterator[tuple[str, Scalar]]:
    """Yield key and value of every setting of a run."""
    yield "models", run.model
    yield "task", plan.task
    flat = flat_settings(run)
    seed = flat.pop("seed")
    unused = {"data.messages"} if run.data.messages is None else {"data.input", "data.output", "data.prompt"}
    dataset = plan.datasets.get(run.dataset)
    if dataset is not None and dataset.has_own_splits:
        unused |= {*_OF_SPLITS}
    if run.train is not None and run.train.warmup_steps is not None:
        unused |= {"train.warmup_fraction"}
    if run.train is None and run.data.test is not None:
        unused |= {*TRAINING_KEYS}
    for key, value in flat.items():
        if key not in unused:
            yield key, _scalar(value)
    if run.train is None or run.batches is None:
        return
    batches = run.batches
    yield SEEDS, _scalar(seed)
    yield _MICRO, batches.micro_batch_size
    yield "train.gradient_accumulation_steps", batches.gradient_accumulation_steps
    yield "train.steps", batches.steps
    yield _WARMUP_STEPS, run.train.warmup(batches.steps)
    yield "compute.gpus_per_run", _devices(plan, batches.data_parallel_size)
    for setting in _fixed(run):
        yield setting.key, setting.value
    stage = next((level.value for level in run.levels if level.factor == STAGE), None)
    if stage is not None:
        yield STAGE, stage


def _devices(plan: Plan, processes: int) -> Scalar:
    if plan.machine.kind == "gpu":
        return plan.gpus_per_run
    return "1 (CPU)" if processes == 1 else f"1 (CPU, {processes} processes)"


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or None
    if isinstance(value, dict):
        given = {key: each for key, each in value.items() if each is not None}
        # A file by its name, or a number of units: `5L: a.json`, `2 epochs`.
        return ", ".join(f"{key}: {each}" if isinstance(each, str) else f"{each} {key}" for key, each in given.items())
    return json.dumps(value)


def _fixed(run: PlannedRun) -> tuple[FixedSetting, ...]:
    """Return the settings that the trainer of a run decides."""
    if run.train is None or run.train.backend not in backend_names():
        return ()
    return get_backend(run.train.backend).fixed_settings(run.train)
