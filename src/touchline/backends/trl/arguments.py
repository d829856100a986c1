"""The Trainer's and TRL's arguments by their names: in a printed configuration, on a command line, in a file.

Source: transformers.TrainingArguments, trl's configs and trl.ModelConfig, peft.LoraConfig. Only what is written is
given: a default may differ from version to version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

from touchline.backends.logtext.numbers import to_count, to_number
from touchline.core.observation import Event, Observation, ObservationName

_NUMBERS: tuple[tuple[ObservationName, str, tuple[str, ...]], ...] = (
    ("micro_batch_size", "1", ("per_device_train_batch_size", "per_gpu_train_batch_size")),
    ("gradient_accumulation_steps", "1", ("gradient_accumulation_steps",)),
    ("learning_rate", "1", ("learning_rate",)),
    ("max_seq_len", "tokens", ("max_seq_length", "max_seq_len", "max_length", "model_max_length")),
    ("lora_rank", "1", ("lora_r", "lora_rank")),
    ("lora_alpha", "1", ("lora_alpha",)),
    ("dropout", "1", ("lora_dropout",)),
)
_WHOLE = frozenset({"micro_batch_size", "gradient_accumulation_steps", "max_seq_len", "lora_rank"})
_DTYPES = (("bf16", "bfloat16"), ("fp16", "float16"))
_FLAGS: tuple[tuple[ObservationName, str], ...] = (
    ("gradient_checkpointing", "gradient_checkpointing"),
    ("packed", "packing"),
    ("compiled", "torch_compile"),
)
_MODELS = ("model_name_or_path", "base_model_name_or_path", "model_name", "model_id")
_TARGETS = ("lora_target_modules", "target_modules")
KEYS: frozenset[str] = frozenset(
    {
        *(key for _, _, keys in _NUMBERS for key in keys),
        *(key for key, _ in _DTYPES),
        *(key for _, key in _FLAGS),
        *_MODELS,
        *_TARGETS,
        *("max_steps", "num_train_epochs", "optim", "attn_implementation", "load_in_4bit", "load_in_8bit"),
        *("bnb_4bit_quant_type", "use_peft", "use_dora"),
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


def observations(
    values: Mapping[str, object], lines: Mapping[str, int] | int = 0, *, certain: bool = True
) -> Iterator[Event]:
    """Yield the observations of arguments.

    Args:
        values: arguments by name; as text, or as YAML and JSON hold them.
        lines: line of each, or of all.
        certain: whether they are beyond doubt those of the run.
    """

    def see(name: ObservationName, value: float | str, key: str, unit: str = "1") -> Observation:
        line = lines if isinstance(lines, int) else lines.get(key, 0)
        return Observation(name=name, value=value, line=line, unit=unit, certain=certain)

    yield from _numbers(values, see)
    for key, word in _DTYPES:
        if is_on(values.get(key)):
            yield see("dtype", word, key)
            break
    for name, key in _FLAGS:
        if is_on(values.get(key)) or is_off(values.get(key)):
            yield see(name, "true" if is_on(values[key]) else "false", key)
    optimizer = values.get("optim")
    if isinstance(optimizer, str) and re.fullmatch(r"[\w.]+", optimizer):
        yield see("optimizer", optimizer.rpartition(".")[2].lower(), "optim")
    attention = values.get("attn_implementation")
    if isinstance(attention, str) and re.fullmatch(r"\w+", attention) and attention != "None":
        yield see("attention", attention, "attn_implementation")
    yield from _adapter(values, see)


def _numbers(values: Mapping[str, object], see: _See) -> Iterator[Observation]:
    for name, unit, keys in _NUMBERS:
        for key in keys:
            number = (to_count if name in _WHOLE else to_number)(values.get(key))
            if number is not None and (number > 0 or (number == 0 and name == "dropout")):
                yield see(name, number, key, unit)
                break
    steps, epochs = to_number(values.get("max_steps")), to_number(values.get("num_train_epochs"))
    if steps is not None and steps > 0:
        yield see("steps_total", int(steps), "max_steps", "steps")
    elif epochs is not None and epochs > 0:
        yield see("epochs", epochs, "num_train_epochs", "epochs")
    for key in _MODELS:
        model = values.get(key)
        if isinstance(model, str) and model.strip() and "$" not in model:
            yield see("model", model.strip(), key)
            break


def _adapter(values: Mapping[str, object], see: _See) -> Iterator[Observation]:
    targets = values.get(next((key for key in _TARGETS if values.get(key)), ""))
    if isinstance(targets, str) and re.fullmatch(r"[\w.,-]+", targets) and targets != "None":
        yield see("target_modules", targets, "target_modules")
    elif isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        yield see("target_modules", ",".join(targets), "target_modules")
    four, eight = is_on(values.get("load_in_4bit")), is_on(values.get("load_in_8bit"))
    if four or eight:
        kind = str(values.get("bnb_4bit_quant_type") or "4-bit") if four else "int8"
        yield see("quantization", kind, "load_in_4bit" if four else "load_in_8bit")
    if is_on(values.get("use_peft")):
        yield see("method", "dora" if is_on(values.get("use_dora")) else "qlora" if four else "lora", "use_peft")


class _See(Protocol):
    """Function that builds an observation."""

    def __call__(self, name: ObservationName, value: float | str, key: str, unit: str = "1") -> Observation:
        """Build an observation from its name, value, the argument's key and a unit."""
        ...


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
