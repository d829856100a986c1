"""The settings of runs as text under dotted keys: which differ between experiments, and which tell runs apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import PurePath

from touchline.core.levels import Level
from touchline.report.compared import SettingRow, Side
from touchline.results.collected import Setting
from touchline.spec.experiment import as_written
from touchline.spec.plan import Plan, PlannedRun
from touchline.spec.runs import RunKind

MODEL, SEED = "models", "seeds"
"""Keys of a run's base model and training seed, as the levels of a design have them."""
DEVICE = "device"
"""Key of what a run was trained on."""
COLLECTED = {
    "model": MODEL,
    "seed": SEED,
    "batch_size": "train.micro_batch_size",
    "packed": "train.packed",
    "max_seq_len": "train.max_seq_len",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "effective_batch_size": "train.global_batch_size",
    "lora_rank": "train.lora.rank",
    "lora_alpha": "train.lora.alpha",
    "learning_rate": "train.learning_rate",
    "epochs": "train.epochs",
}
"""Keys of run_metrics.yaml, of which runs that touchline did not plan have some."""
_DIGITS = 12
"""Of a hash that people compare by eye."""


def planned_settings(plan: Plan, run: PlannedRun) -> dict[str, str]:
    """Everything that was resolved of a run.

    Args:
        plan: the plan, for what holds for all its runs.
        run: the run.
    """
    found = {MODEL: run.model, SEED: str(run.seed), "task": plan.task}
    found |= {f"data.{key}": value for key, value in _flat(run.data)}
    # The same file lies elsewhere in another experiment; its content is told by the splits' hashes.
    found["data.path"] = PurePath(run.data.path).name
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
        found["base weights (sha256)"] = model.weights_sha256[:_DIGITS]
    for split in () if dataset is None else dataset.splits:
        found[f"{split.name} split (sha256)"] = split.sha256[:_DIGITS]
        found[f"{split.name} split (examples)"] = str(split.num_examples)
    # A stage of a chain is a level, and no setting.
    return {level.factor: level.value for level in run.levels} | found


def found_settings(config: Mapping[str, Setting], levels: Sequence[Level]) -> dict[str, str]:
    """What is known of a run that touchline did not plan, under the same keys.

    Args:
        config: `RunMetrics.static_config`.
        levels: its levels of what varies.
    """
    found = {COLLECTED.get(key, key): _text(value) for key, value in config.items() if value is not None}
    return {level.factor: _number(level.value) for level in levels} | found


def setting_rows(sides: Sequence[Side], matched: Sequence[str]) -> tuple[list[SettingRow], int, list[str]]:
    """What differs.

    Returns:
        The rows, by key; how many settings are the same wherever they are known; and those that one experiment knows.
    """
    known = [_values(side) for side in sides]
    rows: list[SettingRow] = []
    same = 0
    once: list[str] = []
    for key in sorted(set().union(*known)):
        values = [each.get(key) for each in known]
        told = [each for each in values if each is not None]
        if len(told) < min(len(sides), 2):
            once.append(key)
        elif all(set(each) == set(told[0]) for each in told):
            same += 1
        else:
            rows.append(SettingRow(key=key, values=tuple(values), is_matched=key in matched))
    return rows, same, once


def matching_keys(sides: Sequence[Side]) -> tuple[str, ...]:
    """Keys that tell conditions apart: what a design varies and two experiments have values of in common.

    What has no value in common is how the experiments differ, and not how their runs are matched. Nor is what follows
    from a level, a micro-batch from the memory that a rank takes. The model is always among them, and first; the seed,
    where seeds are shared, last.
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


def _follows(sides: Sequence[Side], key: str, other: str) -> bool:
    """Whether runs with one value of `other` all have one value of `key`, whichever experiment they are of."""
    seen: dict[str | None, str | None] = {}
    for settings in (each for side in sides for each in side.settings.values() if key in each):
        if seen.setdefault(settings.get(other), settings[key]) != settings[key]:
            return False
    return True


def _values(side: Side) -> dict[str, tuple[str, ...]]:
    """By key: the values among the runs, in their order; of controls only where nothing is trained at all."""
    trained = {run.name for run in side.runs if run.kind is not RunKind.CONTROL and run.control is None}
    found: dict[str, dict[str, None]] = {}
    for name, settings in side.settings.items():
        for key, value in settings.items() if not trained or name in trained else ():
            found.setdefault(key, {})[value] = None
    return {key: tuple(values) for key, values in found.items()}


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every field of a settings dataclass; what is not set is `-`."""
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
    """`1e-3` and `0.001` are one number; other text stays."""
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:.12g}"
