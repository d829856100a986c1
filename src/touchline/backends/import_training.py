"""Training of another tool as settings of experiment.yaml, the same way for every trainer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from touchline.backends.formats import ConfigReading
from touchline.backends.import_carrier import Carrier, not_carried, path_of
from touchline.backends.imports import (
    ALL_ROWS,
    MODEL,
    PARALLEL,
    SEED,
    Carried,
    DataColumns,
    ImportedTraining,
    ImportTable,
    Note,
    Places,
    Reason,
)
from touchline.core.finding import Location
from touchline.experiment import defaults
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining

_ALL_LAYERS = (("all-linear",), ("all",))
_BFLOAT16: tuple[object, ...] = (True, "true", "full", "bfloat16", "bf16")


def carry_training(
    name: str, document: ForeignDocument, reading: ConfigReading, table: ImportTable, places: Places
) -> ImportedTraining:
    """Return a config's training as settings of experiment.yaml; `left_over` lists what it does not look at.

    Args:
        name: name of the training.
        document: the config.
        reading: its reading by its format, with a training.
        table: words and keys of its trainer.
        places: resolves models and paths.
    """
    stated = reading.trainings[0]
    carrier = Carrier(document)
    model = stated.model_path or stated.model
    carrier.carry(MODEL, model, None if model is None else places.model(model.value))
    carrier.same(stated.model)
    _carry_adapter(carrier, stated, table)
    _carry_batch(carrier, stated)
    _carry_optimizer(carrier, stated, table)
    _carry_machine(carrier, stated, table)
    _carry_dtype(carrier, stated, table)
    _carry_devices(carrier, stated)
    _carry_checkpoints(carrier, stated, table)
    _carry_data(carrier, stated, table, places)
    _carry_further(carrier, table)
    for key, value, note in table.differs(stated, document):
        carrier.left = [each for each in carrier.left if each.key != key]
        carrier.left.append(not_carried(key, value, document.where(*path_of(document, key)), note))
        carrier.seen.add(key)
    adapts = carrier.settings.get("train.method")
    adapter = table.adapter_unset if adapts is not None and adapts.value == "lora" else {}
    replaced = {"train.warmup_fraction"} if "train.warmup_steps" in carrier.settings else set()
    for key, value in {**table.unset, **adapter}.items():
        if key not in carrier.settings and key not in replaced:
            default = Stated(value, key, Location(path=document.path), is_default=True)
            carrier.carry(key, default)
    undone = {each.subject: each.message for each in reading.findings if each.code == "BK019"}
    for key in sorted(carrier.seen & undone.keys()):
        if any(carried.source == key for carried in carrier.settings.values()):
            where = document.where(*path_of(document, key))
            note = Note(Reason.CHANGED, undone[key])
            carrier.left.append(not_carried(key, document.get(*path_of(document, key)), where, note))
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
    method = stated.method
    if method is not None:
        carrier.carry("train.method", method, "full" if method.value == "full" else "lora")
    elif stated.rank is not None:
        carrier.carry("train.method", stated.rank, "lora")
    bits = stated.quantization_bits
    if bits is not None:
        words = {4: "nf4", 8: "int8"}
        carrier.carry("train.quantization", bits, words.get(bits.value, bits.value))
    carrier.carry("train.lora.rank", stated.rank)
    if stated.alpha is not None:
        carrier.carry("train.lora.alpha", stated.alpha, _whole(stated.alpha.value))
    carrier.carry("train.lora.dropout", stated.dropout)
    modules = stated.target_modules
    if modules is not None and modules.value in _ALL_LAYERS:
        carrier.carry("train.lora.target_modules", modules, list(defaults.LORA_TARGET_MODULES))
        why = "all linear layers; written as those of a Llama-like block"
        carrier.leave(modules, Note(Reason.CHANGED, why, "name the model's own layers, if they are others"))
    elif modules is not None:
        names = dict.fromkeys(name for each in modules.value for name in table.layers.get(each, (each,)))
        carrier.carry("train.lora.target_modules", modules, list(names))
    if stated.save_adapter_only is not None:
        save = "adapter" if stated.save_adapter_only.value else "merged"
        carrier.carry("train.checkpoint.save", stated.save_adapter_only, save)
    if table.has_stages:
        carrier.same(stated.parent)
        return
    why = "an adapter of an earlier training to continue from"
    carrier.leave(stated.parent, Note(Reason.NO_COUNTERPART, why, "stages: with parent and continue: adapter"))


def _whole(value: float) -> float | int:
    """Return a whole number as an integer."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def _carry_batch(carrier: Carrier, stated: StatedTraining) -> None:
    """Carry the micro-batch size over, and the global batch size: micro-batch size x accumulation x devices."""
    micro, passes, devices = stated.micro_batch_size, stated.gradient_accumulation_steps, stated.devices
    carrier.carry("train.micro_batch_size", micro)
    carrier.carry("compute.gpus_per_run", devices)
    whole = stated.global_batch_size
    if whole is not None:
        carrier.carry("train.global_batch_size", whole)
        carrier.same(passes, "train.global_batch_size")
        return
    if micro is None:
        carrier.leave(
            passes, Note(Reason.REFUSED, "there is no micro-batch size to multiply", "train.global_batch_size")
        )
        return
    count = micro.value * (1 if passes is None else passes.value) * (1 if devices is None else devices.value)
    named = [each.key for each in (micro, passes, devices) if each is not None]
    default = micro.is_default and (passes is None or passes.is_default)
    if carrier.carry("train.global_batch_size", Stated(count, " x ".join(named), micro.where, is_default=default)):
        carrier.same(passes, "train.global_batch_size")


def _carry_optimizer(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    epochs = stated.epochs
    if stated.max_steps is not None:
        why = "trainings are counted in epochs"
        carrier.leave(stated.max_steps, Note(Reason.NO_COUNTERPART, why, "train.epochs: steps x batch / rows"))
    if epochs is not None:
        whole = max(math.ceil(epochs.value), 1)
        carrier.carry("train.epochs", epochs, whole)
        if whole != epochs.value:
            carrier.leave(epochs, Note(Reason.CHANGED, f"epochs are whole; written as {whole}"))
    carrier.carry("train.learning_rate", stated.learning_rate)
    _carry_word(carrier, "train.schedule", stated.schedule, table.schedules)
    _carry_word(carrier, "train.optimizer", stated.optimizer, table.optimizers)
    steps, share = stated.warmup_steps, stated.warmup_fraction
    if (
        stated.schedule is not None
        and stated.schedule.value == "constant"
        and "constant_with_warmup" in table.schedules
    ):
        default = Stated(0.0, stated.schedule.key, stated.schedule.where, is_default=True)
        carrier.carry("train.warmup_fraction", default)
        for each in (steps, share):
            carrier.leave(each, Note(Reason.OFF, "the schedule `constant` has no warmup"))
    elif steps is not None and steps.value == 0:
        carrier.carry("train.warmup_fraction", steps, 0.0)
    elif steps is not None:
        carrier.carry("train.warmup_steps", steps)
    else:
        carrier.carry("train.warmup_fraction", share)
    carrier.carry("train.weight_decay", stated.weight_decay)
    carrier.carry("train.max_grad_norm", stated.max_grad_norm)
    carrier.carry(SEED, stated.seed)
    if stated.shuffle is not None:
        if stated.shuffle.value:
            carrier.same(stated.shuffle)
        else:
            carrier.leave(stated.shuffle, Note(Reason.NO_COUNTERPART, "examples are shuffled by the run's seed"))


def _carry_word(carrier: Carrier, key: str, stated: Stated[str] | None, words: Mapping[str, str]) -> None:
    """Carry a setting over whose values have other names."""
    if stated is None:
        return
    word = words.get(stated.value)
    if word is not None:
        carrier.carry(key, stated, word)
        return
    known = ", ".join(dict.fromkeys(words.values()))
    carrier.leave(stated, Note(Reason.REFUSED, f"not one of touchline's: {known}", f"choose {key}"))


def _carry_machine(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    carrier.carry("train.max_seq_len", stated.max_seq_len)
    carrier.carry("train.packed", stated.packed)
    if stated.eval_packed is not None and stated.packed is not None:
        if stated.eval_packed.value == stated.packed.value:
            carrier.same(stated.eval_packed)
        else:
            carrier.leave(stated.eval_packed, Note(Reason.AUTOMATIC, "validation is never packed"))
    if stated.trains_on_prompt is not None and stated.trains_on_prompt.value:
        carrier.leave(stated.trains_on_prompt, Note(Reason.CHANGED, "the loss is taken on the answer alone"))
    else:
        carrier.same(stated.trains_on_prompt)
    carrier.leave(
        stated.template,
        Note(Reason.CHANGED, "the model's own chat template is used", "put another one into its tokenizer_config.json"),
    )
    if stated.tf32 is not None:
        carrier.leave(stated.tf32, Note(Reason.AUTOMATIC, "float32 products are computed in float32"))
    carrier.carry("train.gradient_checkpointing", stated.gradient_checkpointing)
    _carry_word(carrier, "train.attention", stated.attention, table.attention)
    carrier.carry("train.compile", stated.compiled)
    carrier.leave(stated.offloads, Note(Reason.NO_COUNTERPART, "nothing is moved to host memory while training"))
    if stated.data_workers is not None and not stated.data_workers.is_default:
        carrier.carry("train.dataloader_workers", stated.data_workers)
    if stated.device is not None and stated.device.value == "cpu":
        carrier.leave(stated.device, Note(Reason.AUTOMATIC, "a machine without GPUs trains on its CPU"))


def _carry_dtype(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    """Carry the element type over. Sharded weights are float32 in every case, and computed in the smaller one."""
    dtype = stated.dtype
    full = stated.method is not None and stated.method.value == "full"
    if table.one_dtype and not full:
        carrier.carry("train.lora.dtype", dtype)
    if dtype is None or not full or dtype.value != "bfloat16" or table.one_dtype:
        carrier.carry("train.base_dtype", dtype)
        return
    values = [carrier.document.get(*path_of(carrier.document, key)) for key in table.bfloat16_weights]
    if stated.distributed is None and any(value in _BFLOAT16 for value in values):
        carrier.carry("train.base_dtype", dtype)
        return
    why = "weights are float32, and computed in bfloat16 where the GPU is fast at it"
    carrier.leave(dtype, Note(Reason.AUTOMATIC, why))


def _carry_devices(carrier: Carrier, stated: StatedTraining) -> None:
    """Carry sharding over if the number of devices is known. Else list what to write once for all of its keys."""
    sharding, devices = stated.distributed, stated.devices
    if sharding is not None and devices is not None and devices.value > 1:
        carrier.carry("train.sharding", sharding, "full")
    elif sharding is not None:
        whole = carrier.settings.get("train.global_batch_size")
        count = "" if whole is None else f" and train.global_batch_size: {whole.value} x N"
        refused = stated.quantization_bits is not None or (stated.packed is not None and stated.packed.value)
        full = "" if refused else ", train.sharding: full with train.backend: trl"
        why = "it does not say how many GPUs train, and the batch written here is that of one"
        carrier.leave(sharding, Note(Reason.CHANGED, why, f"for N GPUs compute.gpus_per_run: N{count}{full}"))
    for key in ("deepspeed", "fsdp", "fsdp_config"):
        more = carrier.document.stated(key)
        if more is not None and isinstance(more.value, dict) and key not in carrier.seen:
            carrier.leave(more, PARALLEL)


def _carry_checkpoints(carrier: Carrier, stated: StatedTraining, table: ImportTable) -> None:
    cadence, every = stated.save_cadence, stated.save_steps
    epochs = None if stated.epochs is None else stated.epochs.value
    if every is not None and not every.is_default and cadence is not None and cadence.value == "steps":
        if every.value >= 1:
            carrier.carry("train.checkpoint.every", every, {"steps": int(every.value)})
        elif epochs is not None and math.isclose(every.value * epochs, 1.0):
            carrier.same(every)
        else:
            why = "a checkpoint is saved at each epoch's end, or every so many steps"
            carrier.leave(every, Note(Reason.CHANGED, why, "train.checkpoint.every: {steps: N}"))
    elif cadence is not None and cadence.value == "no":
        carrier.leave(cadence, Note(Reason.CHANGED, "a checkpoint is saved at each epoch's end, to be evaluated"))
    if cadence is not None and cadence.value == "epoch":
        carrier.same(cadence)
        carrier.leave(every, Note(Reason.OFF, "a checkpoint is saved at each epoch's end"))
    elif cadence is not None and cadence.value == "steps":
        carrier.same(cadence)
    limit = stated.save_limit
    if limit is not None and (not limit.is_default or "save_limit" in table.carries_defaults):
        carrier.carry("train.checkpoint.keep", limit)
    if stated.load_best is not None and stated.load_best.value:
        why = "the last checkpoint is evaluated"
        carrier.leave(stated.load_best, Note(Reason.CHANGED, why, "train.checkpoint.keep: best"))
    if stated.save_only_model is not None:
        carrier.leave(stated.save_only_model, Note(Reason.AUTOMATIC, "a state to resume from is saved apart"))
    every, cadence = stated.eval_steps, stated.eval_cadence
    if every is not None and not every.is_default and cadence is not None and cadence.value == "steps":
        if every.value >= 1:
            carrier.carry("train.validate_every_steps", every, int(every.value))
        else:
            why = "validation is at each epoch's end, or every so many steps"
            carrier.leave(every, Note(Reason.CHANGED, why, "train.validate_every_steps: N"))
    if cadence is not None and cadence.value == "no":
        carrier.leave(
            cadence, None if cadence.is_default else Note(Reason.AUTOMATIC, "validation is at each epoch's end")
        )
    else:
        carrier.same(cadence)


def _carry_data(carrier: Carrier, stated: StatedTraining, table: ImportTable, places: Places) -> None:
    sources = [source for source in stated.sources if source.role == "train"]
    held_out = [source for source in stated.sources if source.role == "validation"]
    separate = _separate(carrier, [*sources[:1], *held_out[:1]], table, places)
    for source in sources[:1]:
        columns = _columns(carrier, source, table, places)
        _carry_source(carrier, source, columns, places, "data.train" if separate else "data.path")
    # A name that experiment.yaml cannot hold was refused, and validation rows are no dataset by themselves.
    separate = separate and "data.train" in carrier.settings
    for source in sources[1:]:
        if source.name.key not in carrier.seen:
            carrier.leave(source.name, Note(Reason.NO_COUNTERPART, "a dataset is one file", "join them in one file"))
        else:
            why = f"a dataset is one file, and {sources[0].name.value} is the first"
            note = Note(Reason.NO_COUNTERPART, why, "join them in one file")
            carrier.left.append(not_carried(source.name.key, source.name.value, source.name.where, note))
    for source in held_out[:1] if separate else ():
        _carry_source(carrier, source, _columns(carrier, source, table, places), places, "data.validation")
    for source in held_out[1:] if separate else held_out:
        note = Note(Reason.NO_COUNTERPART, "validation rows are one file", "data: {train: FILE, validation: FILE}")
        if source.name.key not in carrier.seen:
            carrier.leave(source.name, note)
        elif source is not held_out[0]:
            # The first may be other rows of the training file.
            carrier.left.append(not_carried(source.name.key, source.name.value, source.name.where, note))
    held = stated.validation_fraction
    if held is not None and separate:
        carrier.leave(held, Note(Reason.OFF, "the validation file is used"))
    elif held is not None and 0 < held.value < 1:
        carrier.carry("data.train_fraction", held, round(1 - held.value, 6))
        why = "of the rows that do not train, a quarter validates and the others test, unless the file has splits"
        carrier.leave(held, Note(Reason.CHANGED, why))
    elif held is not None and held.value >= 1:
        why = "rows are split by shares"
        carrier.leave(held, Note(Reason.REFUSED, why, f"data.train_fraction: 1 - {held.value:g} / rows of the file"))
    elif held is not None and not any(source.role == "validation" for source in stated.sources):
        carrier.leave(held, ALL_ROWS)
    else:
        carrier.same(held)
    if stated.max_examples is not None:
        why = "all rows of the file are used"
        carrier.leave(stated.max_examples, Note(Reason.NO_COUNTERPART, why, "write the rows to use into a file"))
    if stated.image_root is not None:
        data = sources[0].name.value if sources else "."
        carrier.carry(
            "data.image_root", stated.image_root, relative(places.file(stated.image_root.value), places.file(data))
        )
        carrier.settings["data.images"] = Carried(
            value="image", source=stated.image_root.key, where=stated.image_root.where
        )


def _columns(carrier: Carrier, source: StatedSource, table: ImportTable, places: Places) -> DataColumns:
    if table.columns is None:
        return DataColumns()
    return table.columns(carrier.document, source, places.registry(carrier.document))


def _separate(carrier: Carrier, sources: Sequence[StatedSource], table: ImportTable, places: Places) -> bool:
    """Return True if training and validation rows are two files with the same columns."""
    if len(sources) < 2:
        return False
    columns = [_columns(carrier, source, table, places) for source in sources]
    files = [
        each.path or (source.name.value if source.kind == "file" else None)
        for source, each in zip(sources, columns, strict=True)
    ]
    return None not in files and files[0] != files[1] and columns[0].settings == columns[1].settings


def relative(path: str, file: str) -> str:
    """Return a path relative to the folder of a file; both are relative to one folder."""
    one, folder = PurePosixPath(path), PurePosixPath(file).parent
    if one.is_absolute() or folder.is_absolute():
        return path
    parts, above = list(one.parts), list(folder.parts)
    while parts and above and parts[0] == above[0]:
        parts, above = parts[1:], above[1:]
    return "/".join([*[".."] * len(above), *parts]) or "."


def _carry_source(carrier: Carrier, source: StatedSource, columns: DataColumns, places: Places, to: str) -> None:
    name = source.name
    if columns.path is not None:
        carrier.carry(to, name, places.file(columns.path))
    elif source.kind in ("file", "folder"):
        carrier.carry(to, name, places.file(name.value))
        if source.kind == "folder":
            carrier.leave(name, Note(Reason.CHANGED, "a dataset is one file", "name the file in data.path"))
    else:
        file = f"data/{_file_name(name.value)}.jsonl"
        carrier.carry(to, name, file)
        kind = {"hub": "a dataset of a hub", "registered": "a registered name", "builder": "a builder"}[source.kind]
        why = f"{kind}, not a file on this machine"
        carrier.leave(name, Note(Reason.CHANGED, why, f"save its rows as {file} beside experiment.yaml"))
    origins = {
        setting: carrier.document.stated(*path_of(carrier.document, key)) for key, setting in columns.sources.items()
    }
    for key, value in columns.settings.items():
        if to == "data.validation":
            carrier.same(source.format, to)
        else:
            carrier.carry(key, origins.get(key) or origins.get("data.input") or source.format or name, value)
    for key, setting in columns.sources.items():
        carrier.seen.add(key)
        carrier.parts.setdefault(key, setting.replace("data.path", to))
    if "data.messages" in columns.settings:
        why = "the loss is taken on a chat's last turn, not on each turn of the assistant"
        carrier.leave(source.format or name, Note(Reason.CHANGED, why))
    for key, note in columns.notes.items():
        path = path_of(carrier.document, key)
        carrier.left.append(not_carried(key, carrier.document.get(*path), carrier.document.where(*path), note))
        carrier.seen.add(key)
    if source.split is not None:
        if source.split.value == "train":
            carrier.same(source.split)
        else:
            why = "the split is the file's column `split`, or made by data.train_fraction"
            carrier.leave(source.split, Note(Reason.CHANGED, why))
    if source.field is not None and source.field.value == "train":
        carrier.same(source.field)
    else:
        carrier.leave(source.field, Note(Reason.CHANGED, "rows are found by the form of the file"))


def _file_name(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2]
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in last) or "data"


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
        if stated is not None and word is not None and key not in carrier.seen:
            carrier.carry(to, stated, word)
    for key, values in table.same.items():
        stated = document.stated(*path_of(document, key))
        if stated is not None and any(stated.value == each and type(stated.value) is type(each) for each in values):
            carrier.same(stated)
