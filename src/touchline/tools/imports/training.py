"""Training of another tool as settings of experiment.yaml, the same way for every trainer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields

from touchline.backends.config_reading import ConfigReading
from touchline.backends.config_table import (
    ALL_ROWS,
    MODEL,
    PARALLEL_GROUPS,
    SEED,
    SHARDED,
    Carried,
    DataColumns,
    ImportedTraining,
    ImportTable,
    Reason,
)
from touchline.core.finding import Location
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining
from touchline.experiment.stated import STATED_KEYS
from touchline.experiment.training import LORA_TARGET_MODULES
from touchline.tools.imports.carrier import Carrier, LocalPlaces, not_carried, path_of

_ALL_LAYERS = (("all-linear",), ("all",))
_BFLOAT16: tuple[object, ...] = (True, "true", "full", "bfloat16", "bf16")
_BITS = {4: "nf4", 8: "int8"}
_CONVERTED = frozenset(
    {
        *("method", "alpha", "target_modules", "epochs", "global_batch_size", "schedule", "optimizer", "dtype"),
        *("warmup_steps", "warmup_fraction"),
    }
)
"""Fields whose values are converted one by one."""
_KEYS = {**STATED_KEYS, "devices": "compute.gpus_per_run", "seed": SEED, "compiled": "train.compile"}
_PLAIN: Mapping[str, str] = {
    field.name: _KEYS[field.name]
    for field in fields(StatedTraining)
    if field.name in _KEYS and field.name not in _CONVERTED
}
"""Fields whose values are those of a key of experiment.yaml."""
_OTHERWISE: Mapping[str, str] = {
    "max_steps": "training length is given in epochs",
    "template": "the model's own chat template is used",
    "offloads": "offloading to host memory is not supported",
    "max_examples": "all rows of the file are used",
}
"""Fields that mean another training, whatever their value."""


def carry_training(
    name: str, document: ForeignDocument, reading: ConfigReading, table: ImportTable, places: LocalPlaces
) -> ImportedTraining:
    """Return a config's training as settings of experiment.yaml; `left_over` lists what it does not look at.

    Args:
        reading: its reading by its format, with a training.
        table: words and keys of its trainer.
        places: resolves models and paths.
    """
    stated = reading.trainings[0]
    carrier = Carrier(document)
    model = stated.model_path or stated.model
    carrier.carry(MODEL, model, None if model is None else places.model(model.value))
    carrier.same(stated.model)
    for field, key in _PLAIN.items():
        carrier.carry(key, getattr(stated, field))
    for field, why in _OTHERWISE.items():
        carrier.leave(getattr(stated, field), why)
    _carry_adapter(carrier, stated, table)
    _carry_batch(carrier, stated)
    _carry_length(carrier, stated, table)
    _carry_switches(carrier, stated, table)
    _carry_dtype(carrier, stated, table)
    _carry_sharding(carrier, stated)
    _carry_checkpoints(carrier, stated, table)
    _carry_data(carrier, stated, table, places)
    _carry_further(carrier, table)
    for key, value, why in table.differs(stated, document):
        carrier.left = [each for each in carrier.left if each.key != key]
        carrier.left.append(not_carried(key, value, document.where(*path_of(document, key)), Reason.CHANGED, why))
        carrier.seen.add(key)
    adapts = carrier.settings.get("train.method")
    adapter = table.adapter_unset if adapts is not None and adapts.value == "lora" else {}
    replaced = {"train.warmup_fraction"} if "train.warmup_steps" in carrier.settings else set()
    for key, value in {**table.unset, **adapter}.items():
        if key not in carrier.settings and key not in replaced:
            carrier.carry(key, Stated(value, key, Location(path=document.path), is_default=True))
    undone = {each.subject: each.message for each in reading.findings if each.code == "BK019"}
    sources = {carried.source for carried in carrier.settings.values()}
    for key in sorted(carrier.seen & undone.keys() & sources):
        carrier.list_key(key, undone[key])
    carrier.list_same()
    return ImportedTraining(
        name=name,
        settings=carrier.settings,
        left=tuple(carrier.left),
        backend=stated.backend if table.plans(stated) else None,
        stated=stated,
        seen=frozenset(carrier.seen),
    )


def _carry_adapter(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    method, bits, modules = stated.method, stated.quantization_bits, stated.target_modules
    if method is not None:
        carrier.carry("train.method", method, "full" if method.value == "full" else "lora")
    elif stated.rank is not None:
        carrier.carry("train.method", stated.rank, "lora")
    if bits is not None:
        carrier.carry("train.quantization", bits, _BITS.get(bits.value, bits.value))
    if stated.alpha is not None:
        alpha = stated.alpha.value
        carrier.carry("train.lora.alpha", stated.alpha, int(alpha) if alpha.is_integer() else alpha)
    if modules is not None and modules.value in _ALL_LAYERS:
        carrier.carry("train.lora.target_modules", modules, list(LORA_TARGET_MODULES))
        carrier.leave(modules, "all linear layers, written as those of a Llama-like block")
    elif modules is not None:
        names = dict.fromkeys(name for each in modules.value for name in table.layers.get(each, (each,)))
        carrier.carry("train.lora.target_modules", modules, list(names))
    if stated.save_adapter_only is not None:
        save = "adapter" if stated.save_adapter_only.value else "merged"
        carrier.carry("train.checkpoint.save", stated.save_adapter_only, save)
    if table.has_stages:
        carrier.same(stated.parent)
    else:
        carrier.leave(stated.parent, "an adapter to continue from: use stages with a parent")


def _carry_batch(carrier: Carrier, stated: StatedTraining) -> None:
    """Carry the global batch size over: micro-batch size x accumulation x devices."""
    micro, passes, devices = stated.micro_batch_size, stated.gradient_accumulation_steps, stated.devices
    key = "train.global_batch_size"
    if stated.global_batch_size is not None:
        carrier.carry(key, stated.global_batch_size)
        carrier.same(passes)
    elif micro is None:
        carrier.leave(passes, f"no micro-batch size to multiply: set {key}", Reason.NOT_TAKEN)
    else:
        parts = [each for each in (micro, passes, devices) if each is not None]
        count, named = math.prod(each.value for each in parts), " x ".join(each.key for each in parts)
        default = micro.is_default and (passes is None or passes.is_default)
        if carrier.carry(key, Stated(count, named, micro.where, is_default=default)):
            carrier.same(passes)


def _carry_length(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    """Carry epochs, schedule, warmup and optimizer over."""
    epochs, steps, share, schedule = stated.epochs, stated.warmup_steps, stated.warmup_fraction, stated.schedule
    if epochs is not None:
        whole = max(math.ceil(epochs.value), 1)
        carrier.carry("train.epochs", epochs, whole)
        if whole != epochs.value:
            carrier.leave(epochs, f"epochs are whole numbers, written as {whole}")
    _carry_word(carrier, "train.schedule", schedule, table.schedules)
    _carry_word(carrier, "train.optimizer", stated.optimizer, table.optimizers)
    if schedule is not None and schedule.value == "constant" and "constant_with_warmup" in table.schedules:
        carrier.carry("train.warmup_fraction", Stated(0.0, schedule.key, schedule.where, is_default=True))
        for each in (steps, share):
            carrier.leave(each, "the schedule `constant` has no warmup", Reason.AUTOMATIC)
    elif steps is not None and steps.value == 0:
        carrier.carry("train.warmup_fraction", steps, 0.0)
    elif steps is not None:
        carrier.carry("train.warmup_steps", steps)
    else:
        carrier.carry("train.warmup_fraction", share)


def _carry_word(carrier: Carrier, key: str, stated: Stated[str] | None, words: Mapping[str, str]) -> None:
    """Carry a setting over whose values have other names."""
    if stated is not None and stated.value in words:
        carrier.carry(key, stated, words[stated.value])
    else:
        known = ", ".join(dict.fromkeys(words.values()))
        # Another optimizer than the source's is another training, even if it is its default.
        carrier.leave(stated, f"not supported ({known}): choose {key}")


def _carry_switches(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    """Carry the attention over, and pass the switches that state what touchline does."""
    _carry_word(carrier, "train.attention", stated.attention, table.attention)
    for switch, own, why in (
        (stated.shuffle, True, "examples are shuffled by the run's seed"),
        (stated.trains_on_prompt, False, "the loss is computed on the answer only"),
    ):
        if switch is not None and switch.value is own:
            carrier.same(switch)
        else:
            carrier.leave(switch, why)
    if stated.data_workers is not None and not stated.data_workers.is_default:
        carrier.carry("train.dataloader_workers", stated.data_workers)


def _carry_dtype(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    """Carry the element type over. Sharded weights are float32 in every case, and computed in the smaller one."""
    dtype = stated.dtype
    full = stated.method is not None and stated.method.value == "full"
    if table.one_dtype and not full:
        carrier.carry("train.lora.dtype", dtype)
    values = [carrier.document.get(*path_of(carrier.document, key)) for key in table.bfloat16_weights]
    in_itself = stated.distributed is None and any(value in _BFLOAT16 for value in values)
    if dtype is None or not full or dtype.value != "bfloat16" or table.one_dtype or in_itself:
        carrier.carry("train.base_dtype", dtype)
    else:
        why = "weights are float32, with bfloat16 computation if the GPU computes it fast"
        carrier.leave(dtype, why, Reason.AUTOMATIC)


def _carry_sharding(carrier: Carrier, stated: StatedTraining) -> None:
    """Carry sharding over if the number of devices is known. Else list what to write."""
    for key in PARALLEL_GROUPS:
        group = carrier.document.stated(key)
        if group is not None and isinstance(group.value, dict):
            carrier.leave(group, "compute.gpus_per_run and train.sharding are the only settings", Reason.NOT_TAKEN)
    sharding, devices = stated.distributed, stated.devices
    if sharding is not None and devices is not None and devices.value > 1:
        carrier.carry("train.sharding", sharding, "full")
        return
    whole = carrier.settings.get("train.global_batch_size")
    count = "" if whole is None else f" and train.global_batch_size: {whole.value} x N"
    refused = stated.quantization_bits is not None or (stated.packed is not None and stated.packed.value)
    full = "" if refused else f", {SHARDED}"
    why = "the number of GPUs is not stated (N GPUs: set `gpus_per_run: N` under compute)"
    carrier.leave(sharding, f"{why}{count}{full}")


def _carry_checkpoints(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    """Carry over how often checkpoints are saved and validated, and how many stay."""
    epochs = None if stated.epochs is None else stated.epochs.value
    for every, cadence, key, group in (
        (stated.save_steps, stated.save_cadence, "train.checkpoint.every", True),
        (stated.eval_steps, stated.eval_cadence, "train.validate_every_steps", False),
    ):
        word = None if cadence is None else cadence.value
        if every is not None and not every.is_default and word == "steps":
            if every.value >= 1:
                carrier.carry(key, every, {"steps": int(every.value)} if group else int(every.value))
            elif group and epochs is not None and math.isclose(every.value * epochs, 1.0):
                carrier.same(every)
            else:
                carrier.leave(every, f"it is done at each epoch's end, or every so many steps ({key})")
        if word != "no":
            carrier.same(cadence)
        elif group:
            carrier.leave(cadence, "a checkpoint is saved at each epoch's end, to be evaluated")
        else:
            carrier.leave(cadence, "validation is at each epoch's end", Reason.AUTOMATIC)
    limit = stated.save_limit
    if limit is not None and (not limit.is_default or "save_limit" in table.carries_defaults):
        carrier.carry("train.checkpoint.keep", limit)
    if stated.load_best is not None and stated.load_best.value:
        carrier.leave(stated.load_best, "the last checkpoint is evaluated (see train.checkpoint.keep: best)")


def _carry_data(carrier: Carrier, stated: StatedTraining, table: ImportTable, places: LocalPlaces) -> None:
    sources = [source for source in stated.sources if source.role == "train"]
    held_out = [source for source in stated.sources if source.role == "validation"]
    columns: dict[str, DataColumns] = {
        source.role: _columns(carrier, source, table, places) for source in reversed([*sources, *held_out])
    }
    separate = bool(sources and held_out) and _are_two_files(sources[0], held_out[0], columns)
    for source in sources[:1]:
        _carry_source(carrier, source, columns["train"], places, "data.train" if separate else "data.path")
    # A name that experiment.yaml cannot hold was refused, and validation rows are no dataset by themselves.
    separate = separate and "data.train" in carrier.settings
    if separate:
        _carry_source(carrier, held_out[0], columns["validation"], places, "data.validation")
    for source in sources[1:]:
        carrier.leave(source.name, "a dataset is one file: join them", Reason.NOT_TAKEN)
    for source in held_out[separate:]:
        # The first may be other rows of the training file.
        if source.name.key not in carrier.seen or source is not held_out[0]:
            carrier.leave(
                source.name, "validation rows are one file: data: {train: FILE, validation: FILE}", Reason.NOT_TAKEN
            )
    held = stated.validation_fraction
    if held is not None and separate:
        carrier.leave(held, "the validation file is used", Reason.AUTOMATIC)
    elif held is not None and 0 < held.value < 1:
        carrier.carry("data.train_fraction", held, round(1 - held.value, 6))
        carrier.leave(held, "without splits, 25% of the rows that do not train validate and 75% test")
    elif held is not None and held.value >= 1:
        why = f"rows are split by fractions: data.train_fraction is 1 - {held.value:g} / rows of the file"
        carrier.leave(held, why, Reason.NOT_TAKEN)
    elif not held_out:
        carrier.leave(held, ALL_ROWS)
    else:
        carrier.same(held)
    if stated.image_root is not None:
        data = sources[0].name.value if sources else "."
        carrier.carry("data.image_root", stated.image_root, places.beside(stated.image_root.value, data))
        root = stated.image_root
        carrier.settings.setdefault("data.images", Carried(value=table.images, source=root.key, where=root.where))


def _columns(carrier: Carrier, source: StatedSource, table: ImportTable, places: LocalPlaces) -> DataColumns:
    if table.columns is None:
        return DataColumns()
    return table.columns(carrier.document, source, places.registry(carrier.document))


def _are_two_files(train: StatedSource, held: StatedSource, columns: Mapping[str, DataColumns]) -> bool:
    """Return True if training and validation rows are two files with the same columns."""
    files = [
        columns[source.role].path or (source.name.value if source.kind == "file" else None) for source in (train, held)
    ]
    same_columns = columns["train"].settings == columns["validation"].settings
    return None not in files and files[0] != files[1] and same_columns


def _carry_source(carrier: Carrier, source: StatedSource, columns: DataColumns, places: LocalPlaces, to: str) -> None:
    name = source.name
    if columns.path is not None or source.kind in ("file", "folder"):
        carrier.carry(to, name, places.file(columns.path or name.value))
        if columns.path is None and source.kind == "folder":
            carrier.leave(name, "a dataset is one file: name it in data.path")
    else:
        last = name.value.rstrip("/").rpartition("/")[2]
        file = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in last) or "data"
        carrier.carry(to, name, f"data/{file}.jsonl")
        carrier.leave(name, f"no file on this machine: save its rows as data/{file}.jsonl next to experiment.yaml")
    origins = {
        setting: carrier.document.stated(*path_of(carrier.document, key)) for key, setting in columns.sources.items()
    }
    for key, value in columns.settings.items():
        if to == "data.validation":
            carrier.same(source.format)
        else:
            carrier.carry(key, origins.get(key) or origins.get("data.input") or source.format or name, value)
    carrier.seen |= columns.sources.keys()
    if "data.messages" in columns.settings:
        carrier.leave(source.format or name, "the loss is computed on a chat's last turn, not on each assistant turn")
    for key, why in columns.changed.items():
        carrier.list_key(key, why)
    for part, why in (
        (source.split, "the split is the file's column `split`, or made by data.train_fraction"),
        (source.field, "rows are found by the file format"),
    ):
        if part is not None and part.value == "train":
            carrier.same(part)
        else:
            carrier.leave(part, why)


def _carry_further(carrier: Carrier, table: ImportTable) -> None:
    """Carry the keys over that a `StatedTraining` lacks, and pass those that state what touchline does anyway."""
    document = carrier.document
    for key, to in table.keys.items():
        stated = document.stated(*path_of(document, key))
        if stated is not None and key not in carrier.seen:
            carrier.carry(to, stated)
    for key, (to, words) in table.words.items():
        stated = document.stated(*path_of(document, key))
        word = None if stated is None else words.get(json.dumps(stated.value))
        if word is not None and key not in carrier.seen:
            carrier.carry(to, stated, word)
    for key, values in table.same.items():
        stated = document.stated(*path_of(document, key))
        if stated is not None and any(stated.value == each and type(stated.value) is type(each) for each in values):
            carrier.same(stated)
