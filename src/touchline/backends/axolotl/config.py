"""axolotl's settings: its YAML file, and the same mapping as it prints it into the log.

Only what is written is given: a default may differ from version to version. Source: axolotl.utils.schemas.config,
axolotl.loaders.model, axolotl.utils.data.sft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation, ObservationName

_NUMBERS: tuple[tuple[str, ObservationName, Callable[[object], float | None], str], ...] = (
    ("lora_r", "lora_rank", to_count, "1"),
    ("lora_alpha", "lora_alpha", to_number, "1"),
    ("lora_dropout", "dropout", to_number, "1"),
    ("learning_rate", "learning_rate", to_number, "1"),
    ("sequence_len", "max_seq_len", to_count, "tokens"),
    ("micro_batch_size", "micro_batch_size", to_count, "1"),
    ("gradient_accumulation_steps", "gradient_accumulation_steps", to_count, "1"),
    ("world_size", "gpus", to_count, "1"),
)
_ATTENTION = (
    ("flash_attention", "flash_attention_2"),
    ("sdp_attention", "sdpa"),
    ("xformers_attention", "xformers"),
    ("flex_attention", "flex_attention"),
    ("eager_attention", "eager"),
)
_COMPANIONS = frozenset({"micro_batch_size", "sequence_len", "sample_packing", "num_epochs", "val_set_size"})
"""Beside `base_model` they make a mapping axolotl's: tools that merge models have that key as well."""
KEYS: frozenset[str] = frozenset(
    {
        *("base_model", "adapter", "peft_use_dora", "load_in_4bit", "load_in_8bit", "bf16", "bfloat16", "fp16"),
        *("float16", "optimizer", "gradient_checkpointing", "attn_implementation", "sample_packing", "num_epochs"),
        *("max_steps", "lora_target_modules", "lora_target_linear", "torch_compile"),
        *(key for key, *_ in _NUMBERS),
        *(key for key, _ in _ATTENTION),
    }
)
"""The settings that are read."""


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read the training from axolotl's YAML file. Return None for any other mapping."""
    del name
    if not isinstance(document.get("base_model"), str) or _COMPANIONS.isdisjoint(document):
        return None
    return (Observation(name="trainer", value="axolotl", line=0), *settings(document, {}))


def settings(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a mapping of settings.

    Args:
        values: the settings by axolotl's names.
        lines: line of each; 0 for those that are not there.
    """

    def see(name: ObservationName, value: float | str, key: str, unit: str = "1", certain: bool = True) -> Observation:
        return Observation(name=name, value=value, line=lines.get(key, 0), unit=unit, certain=certain)

    model = values.get("base_model")
    if isinstance(model, str) and model.strip():
        yield see("model", model.strip(), "base_model")
    yield from _method(values, see)
    for key, name, read, unit in _NUMBERS:
        number = read(values.get(key))
        if number is not None and (number > 0 or (number == 0 and name == "dropout")):
            yield see(name, number, key, unit)
    yield from _length(values, see)
    targets = values.get("lora_target_modules")
    if isinstance(targets, list) and targets and values.get("adapter"):
        yield see("target_modules", ",".join(str(target) for target in targets), "lora_target_modules")
    elif is_on(values.get("lora_target_linear")) and values.get("adapter"):
        yield see("target_modules", "all-linear", "lora_target_linear")
    optimizer = values.get("optimizer")
    if isinstance(optimizer, str) and optimizer:
        yield see("optimizer", optimizer.removeprefix("OptimizerNames."), "optimizer")
    checkpointing = values.get("gradient_checkpointing")
    if checkpointing is not None:
        # `unsloth` and `offload` are ways of it.
        on = is_on(checkpointing) or (isinstance(checkpointing, str) and not _is_off(checkpointing))
        yield see("gradient_checkpointing", "true" if on else "false", "gradient_checkpointing")
    if values.get("torch_compile") is not None:
        yield see("compiled", "true" if is_on(values["torch_compile"]) else "false", "torch_compile")
    if values.get("sample_packing") is not None:
        yield see("packed", "true" if is_on(values["sample_packing"]) else "false", "sample_packing")
    yield from _attention(values, see)


_See = Callable[..., Observation]


def _method(values: Row, see: _See) -> Iterator[Observation]:
    four, eight = is_on(values.get("load_in_4bit")), is_on(values.get("load_in_8bit"))
    adapter = values.get("adapter")
    if isinstance(adapter, str) and adapter:
        dora = is_on(values.get("peft_use_dora"))
        word = "dora" if dora else "qlora" if adapter == "lora" and four else adapter
        yield see("method", word, "adapter")
    elif "base_model" in values:
        yield see("method", "full", "base_model")
    if four:
        # The only type that axolotl takes from bitsandbytes.
        yield see("quantization", "nf4", "load_in_4bit")
    elif eight:
        yield see("quantization", "int8", "load_in_8bit")
    for key, word in (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("fp16", "float16"), ("float16", "float16")):
        # `auto` is decided by the GPU.
        if is_on(values.get(key)) or values.get(key) == "full":
            yield see("dtype", word, key)
            break


def _length(values: Row, see: _See) -> Iterator[Observation]:
    """Yield the training length. `max_steps` is an upper bound, with which the epochs determine nothing."""
    steps = to_count(values.get("max_steps"))
    if steps:
        yield see("steps_total", steps, "max_steps", "steps", certain=False)
        return
    epochs = to_number(values.get("num_epochs"))
    if epochs is not None and epochs > 0:
        yield see("epochs", epochs, "num_epochs", "epochs")


def _attention(values: Row, see: _See) -> Iterator[Observation]:
    attention = values.get("attn_implementation")
    if isinstance(attention, str) and attention:
        yield see("attention", attention, "attn_implementation")
        return
    for key, word in _ATTENTION:
        if is_on(values.get(key)):
            yield see("attention", word, key)
            return


def is_on(value: object) -> bool:
    """Return True if a setting is true. Some YAML parsers leave `True` and `yes` as text."""
    return value is True or (isinstance(value, str) and value.lower() in ("true", "yes", "on"))


def _is_off(text: str) -> bool:
    return text.lower() in ("false", "no", "off", "")
