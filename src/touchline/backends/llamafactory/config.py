"""LLaMA-Factory's settings: its YAML or JSON file, and the Trainer's arguments as its first versions printed them.

Only what is written is given: a default may differ from version to version. Source: llamafactory.hparams,
llamafactory.model.model_utils (quantization, attention).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation, ObservationName

_NUMBERS: tuple[tuple[str, ObservationName, Callable[[object], float | None], str], ...] = (
    ("learning_rate", "learning_rate", to_number, "1"),
    ("cutoff_len", "max_seq_len", to_count, "tokens"),
    ("per_device_train_batch_size", "micro_batch_size", to_count, "1"),
    ("gradient_accumulation_steps", "gradient_accumulation_steps", to_count, "1"),
)
_ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
_METHODS = frozenset({"lora", "full", "freeze", "oft"})
_ADAPTERS = frozenset({"lora", "oft"})
KEYS: frozenset[str] = frozenset(
    {
        *("model_name_or_path", "finetuning_type", "use_dora", "quantization_bit", "quantization_method"),
        *("quantization_type", "lora_rank", "lora_alpha", "lora_target", "packing", "neat_packing", "bf16", "fp16"),
        *("pure_bf16", "optim", "flash_attn", "disable_gradient_checkpointing", "num_train_epochs", "max_steps"),
        "lora_dropout",
        *(key for key, *_ in _NUMBERS),
    }
)
"""The settings that are read."""


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read the training of LLaMA-Factory's file. Return None for any other mapping, and for files that only export or
    serve.
    """
    del name
    ours = "finetuning_type" in document or "stage" in document or ("template" in document and "dataset" in document)
    if not isinstance(document.get("model_name_or_path"), str) or not ours:
        return None
    trains = is_on(document.get("do_train")) or ("dataset" in document and "output_dir" in document)
    if not trains or "export_dir" in document:
        return None
    return (Observation(name="trainer", value="llamafactory", line=0), *settings(document, {}))


def settings(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a mapping of settings.

    Args:
        values: the settings by LLaMA-Factory's names.
        lines: line of each; 0 for those that are not there.
    """

    def see(name: ObservationName, value: float | str, key: str, unit: str = "1") -> Observation:
        return Observation(name=name, value=value, line=lines.get(key, 0), unit=unit)

    model = values.get("model_name_or_path")
    if isinstance(model, str) and model.strip():
        yield see("model", model.strip(), "model_name_or_path")
    yield from _method(values, see)
    for key, name, read, unit in _NUMBERS:
        number = read(values.get(key))
        if number is not None and number > 0:
            yield see(name, number, key, unit)
    steps, epochs = to_count(values.get("max_steps")), to_number(values.get("num_train_epochs"))
    if steps:
        yield see("steps_total", steps, "max_steps", "steps")
    elif epochs is not None and epochs > 0:
        yield see("epochs", epochs, "num_train_epochs", "epochs")
    optimizer = values.get("optim")
    if isinstance(optimizer, str) and optimizer:
        yield see("optimizer", optimizer, "optim")
    for key, word in (("bf16", "bfloat16"), ("pure_bf16", "bfloat16"), ("fp16", "float16")):
        if is_on(values.get(key)):
            yield see("dtype", word, key)
            break
    for key in ("packing", "neat_packing"):
        if is_on(values.get(key)) or (key == "packing" and values.get(key) is not None):
            yield see("packed", "true" if is_on(values[key]) or is_on(values.get("neat_packing")) else "false", key)
            break
    attention = values.get("flash_attn")
    if isinstance(attention, str) and attention in _ATTENTION:
        yield see("attention", _ATTENTION[attention], "flash_attn")
    if values.get("disable_gradient_checkpointing") is not None:
        off = is_on(values["disable_gradient_checkpointing"])
        yield see("gradient_checkpointing", "false" if off else "true", "disable_gradient_checkpointing")


_See = Callable[..., Observation]


def _method(values: Row, see: _See) -> Iterator[Observation]:
    kind = values.get("finetuning_type")
    bits = to_count(values.get("quantization_bit"))
    if isinstance(kind, str) and kind in _METHODS:
        dora = kind == "lora" and is_on(values.get("use_dora"))
        yield see("method", "dora" if dora else "qlora" if kind == "lora" and bits else kind, "finetuning_type")
    if bits:
        yield see("quantization", _quantization(bits, values), "quantization_bit")
    if kind is None or kind in _ADAPTERS:
        for key, name in (("lora_rank", "lora_rank"), ("lora_alpha", "lora_alpha")):
            number = to_number(values.get(key))
            if number is not None and number > 0:
                yield see(name, number, key)
        dropout = to_number(values.get("lora_dropout"))
        if dropout is not None and 0 <= dropout < 1:
            yield see("dropout", dropout, "lora_dropout")
        targets = values.get("lora_target")
        if isinstance(targets, str):
            targets = targets.split(",")
        if isinstance(targets, list) and targets:
            yield see("target_modules", ",".join(str(target).strip() for target in targets), "lora_target")


def _quantization(bits: int, values: Row) -> str:
    method = str(values.get("quantization_method") or "bnb")
    if method not in ("bnb", "bitsandbytes"):
        return f"{bits}-bit"
    return str(values.get("quantization_type") or "nf4") if bits == 4 else f"int{bits}"


def is_on(value: object) -> bool:
    """Return True if a setting is true. Some YAML parsers leave `True` and `yes` as text."""
    return value is True or (isinstance(value, str) and value.lower() in ("true", "yes", "on"))
