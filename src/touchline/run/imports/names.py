"""Settings of files that are not a trainer's own, by the names that their keys usually have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from touchline.backends.config_reading import source_kind
from touchline.backends.import_carrier import dotted, leaves
from touchline.backends.imports import ATTENTION, HF_NOTES, HF_OPTIMIZER_WORDS, HF_SCHEDULES, ImportTable, Note, Reason
from touchline.core.finding import Location
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining

FIELDS: Mapping[str, tuple[str, ...]] = {
    "model": (
        *("model_name_or_path", "base_model", "model_name", "model_id", "model.name", "model.path", "model.id"),
        *("model.pretrained", "model.name_or_path", "model"),
    ),
    "rank": ("lora_rank", "lora_r", "lora.rank", "lora.r", "adapter.rank", "adapter.r", "rank"),
    "alpha": ("lora_alpha", "lora.alpha", "lora.lora_alpha", "adapter.alpha"),
    "dropout": ("lora_dropout", "lora.dropout", "lora.lora_dropout", "adapter.dropout"),
    "target_modules": ("lora_target_modules", "target_modules", "lora_modules"),
    "epochs": ("num_train_epochs", "num_epochs", "max_epochs", "n_epochs", "epochs"),
    "max_steps": ("max_steps", "max_train_steps", "num_training_steps"),
    "micro_batch_size": (
        *("per_device_train_batch_size", "micro_batch_size", "train_batch_size", "train_bs", "batch_size"),
    ),
    "gradient_accumulation_steps": ("gradient_accumulation_steps", "grad_accum", "accumulate_grad_batches"),
    "global_batch_size": ("global_batch_size", "effective_batch_size"),
    "learning_rate": ("learning_rate", "lr"),
    "schedule": ("lr_scheduler_type", "lr_scheduler", "lr_schedule", "schedule", "scheduler.name", "scheduler"),
    "warmup_steps": ("num_warmup_steps", "warmup_steps"),
    "warmup_fraction": ("warmup_ratio", "warmup_fraction"),
    "weight_decay": ("weight_decay",),
    "optimizer": ("optim", "optimizer.name", "optimizer"),
    "max_grad_norm": ("max_grad_norm", "gradient_clip_val", "clip_grad_norm", "grad_clip"),
    "seed": ("seed", "random_seed"),
    "max_seq_len": ("max_seq_len", "max_seq_length", "max_length", "sequence_len", "cutoff_len", "seq_len"),
    "packed": ("packed", "packing", "sample_packing"),
    "gradient_checkpointing": ("gradient_checkpointing", "activation_checkpointing"),
    "attention": ("attn_implementation", "attention"),
    "quantization_bits": ("quantization_bit", "quantization_bits"),
    "data_workers": ("dataloader_num_workers", "num_workers"),
    "validation_fraction": ("val_set_size", "val_size", "validation_fraction"),
    "save_limit": ("save_total_limit",),
    "data": (
        *("train_file", "train_jsonl", "train_path", "dataset_path", "data_path", "dataset_name", "data.path"),
        *("data.train", "data.train_file", "dataset.path", "dataset.name", "data.name", "dataset", "data"),
    ),
}
"""Usual names of each setting, the last parts of a dotted key; earlier ones go first. `data` is the dataset."""
_WHOLE = frozenset(
    {
        *("rank", "micro_batch_size", "gradient_accumulation_steps", "global_batch_size", "warmup_steps", "max_steps"),
        *("seed", "max_seq_len", "quantization_bits", "data_workers", "save_limit"),
    }
)
_NUMBERS = frozenset(
    {
        *("alpha", "dropout", "epochs", "learning_rate", "warmup_fraction", "weight_decay", "max_grad_norm"),
        "validation_fraction",
    }
)
_FLAGS = frozenset({"packed", "gradient_checkpointing"})
_BY_NAME = {name: field for field, names in FIELDS.items() for name in names}
_LONGEST = max(name.count(".") + 1 for name in _BY_NAME)
TABLE = ImportTable(
    schedules={
        **HF_SCHEDULES,
        **{f"get_{word}_schedule_with_warmup": word for word in ("linear", "cosine")},
        "get_constant_schedule_with_warmup": "constant",
    },
    optimizers={**HF_OPTIMIZER_WORDS, "adamw": "adamw", "AdamW": "adamw"},
    attention=ATTENTION,
    keys={},
    notes=HF_NOTES,
    knows=lambda key: True,
)
"""Words of such files."""


def field_of(path: tuple[Key, ...]) -> str | None:
    """Return the field that a key usually means: by its last parts, the longest known name first."""
    parts = [str(part).casefold() for part in path]
    for length in range(min(_LONGEST, len(parts)), 0, -1):
        found = _BY_NAME.get(".".join(parts[-length:]))
        if found is not None:
            return found
    return None


def number_of(value: object, whole: bool) -> float | int | None:
    """Return a finite number, also from text such as `1e-4`, which YAML 1.1 reads as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    if found != found or found in (float("inf"), float("-inf")):
        return None
    return (int(found) if found == int(found) else None) if whole else found


def typed(field: str, value: object) -> object:
    """Return a value in a field's type. None if it is of another."""
    if field in _WHOLE or field in _NUMBERS:
        return number_of(value, field in _WHOLE)
    if field in _FLAGS:
        return value if isinstance(value, bool) else None
    if field == "target_modules":
        named = value.split(",") if isinstance(value, str) else value
        if not isinstance(named, list) or not all(isinstance(name, str) and name for name in named):
            return None
        return tuple(named) or None
    return value if isinstance(value, str) and value.strip() and "${" not in value else None


def train_by_names(
    document: ForeignDocument, paths: Mapping[str, tuple[Key, ...]], *, backend: str, **fixed: Any
) -> StatedTraining:
    """Return the training of a file by the places of its fields.

    Args:
        document: the file.
        paths: path of each field of `FIELDS`.
        backend: trainer, or the tool's name.
        fixed: further fields.
    """
    found: dict[str, Any] = {}
    for field, path in paths.items():
        value = typed(field, document.get(*path))
        if value is None:
            continue
        stated = Stated(value, dotted(path), document.where(*path))
        if field == "data":
            name = Stated(str(value), stated.key, stated.where)
            found["sources"] = (StatedSource(name=name, kind=source_kind(name.value)),)
        else:
            found[field] = stated
    return StatedTraining(backend=backend, where=Location(path=document.path), subject="", **{**fixed, **found})


def named_paths(document: ForeignDocument) -> tuple[dict[str, tuple[Key, ...]], dict[str, Note]]:
    """Return the places of fields in a file by the names of its keys, and keys that mean one field differently."""
    candidates: dict[str, list[tuple[int, tuple[Key, ...], object]]] = {}
    for path, value in _values(document):
        field = field_of(path)
        if field is not None and typed(field, value) is not None:
            name = next(
                index
                for index, each in enumerate(FIELDS[field])
                if dotted(path).casefold() == each or dotted(path).casefold().endswith(f".{each}")
            )
            candidates.setdefault(field, []).append((name, path, typed(field, value)))
    found: dict[str, tuple[Key, ...]] = {}
    unclear: dict[str, Note] = {}
    for field, given in candidates.items():
        values = {repr(value) for _, _, value in given}
        if len(values) == 1:
            found[field] = min(given, key=lambda each: each[0])[1]
            continue
        keys = ", ".join(dotted(path) for _, path, _ in given)
        note = Note(Reason.REFUSED, f"several keys may mean it: {keys}", "set it in experiment.yaml")
        unclear |= {dotted(path): note for _, path, _ in given}
    return found, unclear


def _values(document: ForeignDocument) -> Iterator[tuple[tuple[Key, ...], object]]:
    for path, value in leaves(document.data):
        if not any("." in str(part) for part in path):
            yield path, value
