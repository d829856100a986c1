"""The Trainer's and TRL's arguments by their names: in a printed configuration, on a command line, in a file.

Source: transformers.TrainingArguments, trl's configs and trl.ModelConfig, peft.LoraConfig. Only what is written is
given: a default may differ from version to version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from touchline.backends import config_table
from touchline.backends.config_table import Keys, first_on, training_of
from touchline.backends.trl.stated import ADAPTER_KEYS
from touchline.backends.trl.stated import KEYS as FILE_KEYS
from touchline.backends.trl.trainer import TRAINER_KEYS, trainer_fields
from touchline.core.observation import Event, Observation

_TABLE: Keys = {
    **TRAINER_KEYS,
    **{field: FILE_KEYS[field] for field in ("packed", "attention")},
    **ADAPTER_KEYS,
    "model": ("text", "model_name_or_path base_model_name_or_path model_name model_id", None),
    "max_seq_len": ("whole", "max_seq_length max_seq_len max_length model_max_length", None),
    "target_modules": ("words", "lora_target_modules target_modules", None),
    "gradient_checkpointing": ("flag", "gradient_checkpointing", None),
}
"""The table of files, with the names that scripts print."""
_READ = (
    *("micro_batch_size", "gradient_accumulation_steps", "learning_rate", "max_seq_len", "rank", "alpha", "dropout"),
    *("gradient_checkpointing", "packed", "compiled", "model", "target_modules", "max_steps", "epochs", "optimizer"),
    "attention",
)
KEYS: frozenset[str] = frozenset(
    {
        *(key for field in _READ for key in _TABLE[field][1].split()),
        *("bf16", "fp16", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_peft", "use_dora"),
    }
)
"""The arguments that are read."""
ANCHORS: frozenset[str] = frozenset(
    {"per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "model_name_or_path"}
)
"""Keys of which at least one is needed, since the others have meanings elsewhere."""
_FLAG = re.compile(
    r"(?<![\w-])--(?P<key>[a-z][\w-]*)(?:(?:=|\s+|['\"],?\s*['\"])(?P<value>[^\s'\",\\-][^\s'\",\\]*))?(?=[\s'\",\\]|$)"
)


def observations(values: Mapping[str, object], line: int = 0, *, certain: bool = True) -> Iterator[Event]:
    """Yield the observations of arguments.

    Args:
        values: arguments by name; as text, or as YAML and JSON hold them.
        line: line of all.
        certain: whether they are beyond doubt those of the run.
    """
    given = {key: value for key, value in values.items() if key in KEYS and value != "None" and "$" not in str(value)}
    settings = config_table.reader_of(given)
    found = trainer_fields(settings, _TABLE)
    found["quantization_bits"] = bits = first_on(settings, {"load_in_4bit": 4, "load_in_8bit": 8})
    stated = training_of("trl", settings, found)
    for each in config_table.observations(stated, dict.fromkeys(given, line)):
        value = each.value
        if each.name == "optimizer":
            value = str(value).rpartition(".")[2].lower()
        elif each.name == "quantization" and bits is not None and bits.value == 4:
            value = str(given.get("bnb_4bit_quant_type") or "4-bit")
        yield replace(each, value=value, line=line, certain=certain)
    if is_on(given.get("use_peft")):
        method = "dora" if is_on(given.get("use_dora")) else "qlora" if settings.on("load_in_4bit") else "lora"
        yield Observation(name="method", value=method, line=line, certain=certain)


def is_on(value: object) -> bool:
    """Return True if an argument is true, as a value or as text."""
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "yes", "on"))


def is_off(value: object) -> bool:
    """Return True if an argument is false, as a value or as text."""
    return value is False or (isinstance(value, str) and value.strip().lower() in ("false", "no", "off"))


def flags(text: str) -> dict[str, object]:
    """Return the arguments of a command line, or of a printed list of its words. Without a value, one is true."""
    found: dict[str, object] = {}
    for match in _FLAG.finditer(text):
        key = match["key"].replace("-", "_")
        if key in KEYS:
            found[key] = match["value"] if match["value"] is not None else "true"
    return found
