"""Complete table of the settings of every run, declared once for the plan, the README, the reports and `--json`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from touchline.backends.protocol import FixedSetting
from touchline.backends.registry import backend_names, get_backend
from touchline.core.levels import SEEDS, STAGE
from touchline.core.table import Column, Table, table_of
from touchline.experiment.defaults import DEFAULTS
from touchline.experiment.experiment import TRAINING_KEYS
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.settings_table import Origin, RunSetting, Scalar, flat_settings

_MICRO, _PACKED, _RATE = "train.micro_batch_size", "train.packed", "train.learning_rate"
_EPOCHS = "evaluate.epochs"
_ACCUMULATION, _WARMUP_STEPS, _STEPS = "train.gradient_accumulation_steps", "train.warmup_steps", "train.steps"
_DEVICES = "compute.gpus_per_run"
_COLUMNS = ("data.input", "data.output", "data.messages")
_OF_SPLITS = ("data.train_fraction", "data.split_seed")
_LISTED_LATER = (
    frozenset(
        {
            *("train.lora.dropout", "train.lora.dtype", "train.weight_decay", "train.validate_every_steps"),
            *("train.checkpoint.save", "train.checkpoint.every", "train.backend"),
            *("data.input", "data.output", "evaluate.top_p", "evaluate.repeats", "evaluate.seed"),
        }
    ),
    frozenset(
        {
            *("train.method", "train.quantization", "train.optimizer", "train.label_smoothing"),
            *("train.neftune_alpha", "train.dataloader_workers", "train.attention", "train.kernels", "train.sharding"),
            "train.compile",
            *("train.lora.init", "train.lora.dora", "train.lora.rslora"),
            *("data.images", "data.image_root"),
        }
    ),
)
"""Keys that older versions did not list among the defaults, one set per version that added keys."""
_COMPUTED = {
    _ACCUMULATION: "global batch size / (micro-batch size x devices)",
    _STEPS: "from the batches of the training split",
    _WARMUP_STEPS: "as given, or warmup fraction x steps, rounded up",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """Name, unit and text for an unset value of one setting."""

    key: str
    name: str
    unit: str | None = None
    unset: str = "-"


_ROWS = (
    _Row(_RATE, "learning rate"),
    _Row("train.epochs", "epochs"),
    _Row("train.global_batch_size", "global batch size", "examples"),
    _Row(_MICRO, "micro-batch size", "sequences"),
    _Row(_ACCUMULATION, "gradient accumulation steps"),
    _Row(_DEVICES, "devices per run"),
    _Row("train.max_seq_len", "max_seq_len", "tokens"),
    _Row(_PACKED, "packed"),
    _Row("train.lora.rank", "LoRA rank"),
    _Row("train.lora.alpha", "LoRA alpha"),
    _Row("train.lora.dropout", "LoRA dropout"),
    _Row("train.lora.target_modules", "LoRA target modules"),
    _Row("train.lora.dtype", "adapter dtype"),
    _Row("train.lora.init", "adapter initialization"),
    _Row("train.lora.dora", "DoRA"),
    _Row("train.lora.rslora", "rank-stabilized LoRA"),
    _Row("train.method", "trained weights"),
    _Row("train.base_dtype", "base model dtype"),
    _Row("train.quantization", "quantization"),
    _Row("train.optimizer", "optimizer"),
    _Row("train.label_smoothing", "label smoothing"),
    _Row("train.neftune_alpha", "NEFTune alpha", unset="none"),
    _Row("train.dataloader_workers", "data loader workers"),
    _Row("train.attention", "attention"),
    _Row("train.kernels", "kernels"),
    _Row("train.compile", "compiled"),
    _Row("train.sharding", "sharding over devices"),
    _Row("train.loss", "loss"),
    _Row("train.schedule", "learning rate schedule"),
    _Row("train.warmup_fraction", "warmup", "of all steps"),
    _Row(_WARMUP_STEPS, "warmup steps"),
    _Row("train.weight_decay", "weight decay"),
    _Row("train.max_grad_norm", "gradient clipping (norm)"),
    _Row("train.gradient_checkpointing", "gradient checkpointing"),
    _Row(SEEDS, "training seed"),
    _Row(_STEPS, "optimizer steps"),
    _Row("train.validate_every_steps", "validation every", "steps", "at the end of each epoch"),
    _Row("train.checkpoint.every", "checkpoint every"),
    _Row("train.checkpoint.save", "checkpoint contents"),
    _Row("train.checkpoint.keep", "checkpoints kept"),
    _Row("train.checkpoint.resume_minutes", "training state saved every", "minutes"),
    _Row("train.backend", "trainer"),
    _Row("train.recipe", "recipe", unset="the trainer's own"),
    _Row("models", "base model"),
    _Row("data.path", "dataset"),
    _Row("data.train", "training data"),
    _Row("data.validation", "validation data"),
    _Row("data.test", "test data"),
    _Row("data.input", "input column"),
    _Row("data.output", "answer column"),
    _Row("data.messages", "chat column", unset="none"),
    _Row("data.images", "image column", unset="none"),
    _Row("data.image_root", "folder of images", unset="the dataset's"),
    _Row("data.prompt", "prompt", unset="none"),
    _Row("data.system", "system prompt", unset="none"),
    _Row("data.train_fraction", "training fraction (random split)"),
    _Row("data.split_seed", "random split seed"),
    _Row("task", "task"),
    _Row(_EPOCHS, "evaluated epochs", unset="none"),
    _Row("evaluate.samples", "evaluated test items"),
    _Row("evaluate.batch_size", "evaluation batch size", "prompts"),
    _Row("evaluate.max_new_tokens", "longest answer", "tokens"),
    _Row("evaluate.temperature", "temperature (0: greedy decoding)"),
    _Row("evaluate.top_p", "top_p"),
    _Row("evaluate.repeats", "answers per item"),
    _Row("evaluate.seed", "sampling seed"),
    _Row("evaluate.max_error_rate", "allowed fraction of failed answers"),
    _Row("evaluate.tasks", "further tasks", unset="none"),
    _Row("evaluate.cluster", "cluster column", unset="none"),
    _Row("evaluate.metric", "primary metric", unset="the task's first"),
    _Row("evaluate.labels", "labels", unset="all answers of the dataset"),
    _Row("evaluate.quantization", "quantization in evaluation"),
)
_DECLARED = {row.key: row for row in _ROWS}
_ORDER = {key: place for place, key in enumerate(_DECLARED)}
LEADING = (
    *("train.learning_rate", "train.epochs", "train.global_batch_size", "train.max_seq_len"),
    *("train.lora.rank", "train.lora.alpha"),
)
"""Keys of the most important settings."""


def collect_settings(plan: Plan) -> tuple[RunSetting, ...]:
    """Return the settings of all runs of a plan in their declared order, defaults and fixed ones included."""
    reasons = {row.key: row.reason for row in DEFAULTS}
    not_given = {assumption.key for assumption in plan.assumptions}
    # Plans of an earlier version do not list these; there a value that equals the default counts as one.
    unlisted = frozenset().union(*(keys for keys in _LISTED_LATER if not not_given & keys))
    silent = {row.key: row.value for row in DEFAULTS if row.key in unlisted}
    decided = {
        _MICRO: _shared(run.micro_batch_reason for run in plan.runs),
        _PACKED: _shared(run.packed_reason for run in plan.runs),
        _RATE: _shared(run.learning_rate_reason for run in plan.runs),
        **_COMPUTED,
    }
    known = {run.name: dict(_settings(plan, run)) for run in plan.runs}
    fixed: dict[str, list[str | None]] = {}
    for setting in (setting for run in plan.runs for setting in _fixed(run)):
        fixed.setdefault(setting.key, []).append(setting.reason)
    levels = {level.factor for run in plan.runs for level in run.levels}

    def origin(key: str, values: Sequence[Scalar]) -> tuple[Origin, str | None]:
        if key in _COMPUTED:
            return Origin.DECIDED, decided[key]
        if any(key in run.accepted for run in plan.runs) or (key in levels and key not in not_given):
            return Origin.GIVEN, None
        if key in fixed:
            reason = _shared(fixed[key])
            return (Origin.FIXED if reason is None else Origin.DECIDED), reason
        if key in (_MICRO, _PACKED) and key in not_given:
            return Origin.DECIDED, decided[key] or reasons.get(key)
        if key == _RATE and decided[key] is not None:
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
        row = _DECLARED.get(key) or _Row(key, key.rpartition(".")[2].replace("_", " "))
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
    yield _ACCUMULATION, batches.gradient_accumulation_steps
    yield _STEPS, batches.steps
    yield _WARMUP_STEPS, run.train.warmup(batches.steps)
    yield _DEVICES, _devices(plan, batches.data_parallel_size)
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
