"""ms-swift's settings: args.json (sft_args.json in its first two versions), the arguments as it prints them into the
log, and the command that it says it runs.

Only what is written is given. Source: swift.arguments, swift.llm.utils.argument (version 2), swift.cli.main.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation, ObservationName

_NUMBERS: tuple[tuple[tuple[str, ...], ObservationName, Callable[[object], float | None], str], ...] = (
    (("learning_rate",), "learning_rate", to_number, "1"),
    (("max_length",), "max_seq_len", to_count, "tokens"),
    (("per_device_train_batch_size", "batch_size"), "micro_batch_size", to_count, "1"),
    (("gradient_accumulation_steps",), "gradient_accumulation_steps", to_count, "1"),
)
_MODEL = ("model", "model_id_or_path")
_TUNER = ("tuner_type", "train_type", "sft_type")
_TARGETS = ("target_modules", "lora_target_modules")
_BITS = ("quant_bits", "quantization_bit")
_DTYPE = ("torch_dtype", "dtype")
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_ATTENTION = {"flash_attn": "flash_attention_2", "flash_attention_2": "flash_attention_2"}
_LORA = frozenset({"lora", "longlora", "adalora", "rslora"})
KEYS: frozenset[str] = frozenset(
    {
        *(key for keys, *_ in _NUMBERS for key in keys),
        *(*_MODEL, *_TUNER, *_TARGETS, *_BITS, *_DTYPE, "use_dora", "lora_rank", "lora_alpha", "quant_method"),
        *("bnb_4bit_quant_type", "packing", "gradient_checkpointing", "optim", "attn_impl", "use_flash_attn"),
        *("num_train_epochs", "max_steps", "global_world_size", "swift_version"),
        *("resume_from_checkpoint", "resume_only_model"),
    }
)
"""The settings that are read."""
_PLAIN: dict[str, object] = {"none": None, "null": None, "": None, "true": True, "false": False}
_FLAG = re.compile(r"--(?P<key>[\w-]+)(?:(?:=| +)(?P<value>(?:(?!--)\S+(?: +|$))+))?")
_ARGUMENT = re.compile(r"(?:\(|, )(?P<key>\w+)=(?P<value>'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[^,()\[\]]+)")


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read ms-swift's saved arguments. Return None for any other mapping."""
    del name
    # Both are absent from the Trainer's own arguments; `model_type` alone is in every model's config.json.
    ours = "swift_version" in document or "sft_type" in document
    if not ours or not any(key in document for key in _TUNER) or not any(key in document for key in _MODEL):
        return None
    if "learning_rate" not in document:
        return None
    return (Observation(name="trainer", value="swift", line=0), *settings(document, {}))


def settings(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a mapping of settings.

    Args:
        values: the settings by ms-swift's names; text as `print` writes a value is understood.
        lines: line of each; 0 for those that are not there.
    """
    known = {key: value for key in values if (value := plain(values[key])) is not None}

    def see(name: ObservationName, value: float | str, key: str, unit: str = "1", certain: bool = True) -> Observation:
        return Observation(name=name, value=value, line=lines.get(key, 0), unit=unit, certain=certain)

    key, model = _first(known, _MODEL)
    if isinstance(model, str) and model:
        yield see("model", model, key)
    yield from _method(known, see)
    for keys, name, read, unit in _NUMBERS:
        key, value = _first(known, keys)
        number = read(value)
        if number is not None and number > 0:
            yield see(name, number, key, unit)
    steps, epochs = to_count(known.get("max_steps")), to_number(known.get("num_train_epochs"))
    if steps:
        yield see("steps_total", steps, "max_steps", "steps")
    elif epochs is not None and epochs > 0:
        yield see("epochs", epochs, "num_train_epochs", "epochs")
    devices = to_count(known.get("global_world_size"))
    if devices:
        # One process may spread the model over several devices.
        yield see("gpus", devices, "global_world_size", certain=devices > 1)
    optimizer = known.get("optim")
    if isinstance(optimizer, str):
        yield see("optimizer", optimizer, "optim")
    flags: tuple[tuple[str, ObservationName], ...] = (
        ("packing", "packed"),
        ("gradient_checkpointing", "gradient_checkpointing"),
    )
    for key, name in flags:
        if key in known:
            yield see(name, "true" if known[key] is True else "false", key)
    attention = known.get("attn_impl")
    if isinstance(attention, str):
        yield see("attention", _ATTENTION.get(attention, attention), "attn_impl")
    elif known.get("use_flash_attn") is True:
        yield see("attention", "flash_attention_2", "use_flash_attn")
    version = known.get("swift_version")
    if isinstance(version, str):
        yield see("version", f"ms-swift={version}", "swift_version")


_See = Callable[..., Observation]


def _method(known: Mapping[str, object], see: _See) -> Iterator[Observation]:
    key, tuner = _first(known, _TUNER)
    bits_key, value = _first(known, _BITS)
    bits = to_count(value)
    if isinstance(tuner, str):
        dora = tuner == "lora" and known.get("use_dora") is True
        yield see("method", "dora" if dora else "qlora" if tuner == "lora" and bits else tuner, key)
    if bits:
        by_bnb = known.get("quant_method", "bnb") == "bnb"
        word = str(known.get("bnb_4bit_quant_type", "nf4")) if bits == 4 else f"int{bits}"
        yield see("quantization", word if by_bnb else f"{bits}-bit", bits_key)
    key, dtype = _first(known, _DTYPE)
    if isinstance(dtype, str) and dtype.lower() != "auto":
        yield see("dtype", _DTYPES.get(dtype, dtype.removeprefix("torch.")), key)
    # Arguments of LoRA are printed for a full fine-tuning as well.
    if tuner is None or tuner in _LORA:
        names: tuple[ObservationName, ...] = ("lora_rank", "lora_alpha")
        for name in names:
            number = to_number(known.get(name))
            if number is not None and number > 0:
                yield see(name, number, name)
        key, targets = _first(known, _TARGETS)
        if isinstance(targets, list) and targets:
            yield see("target_modules", ",".join(str(target) for target in targets), key)
        elif isinstance(targets, str):
            yield see("target_modules", ",".join(targets.split()), key)


def _first(known: Mapping[str, object], keys: tuple[str, ...]) -> tuple[str, object]:
    return next(((key, known[key]) for key in keys if key in known), (keys[0], None))


def plain(value: object) -> object:
    """Return a value without the syntax of `print`. Return None if it holds no information."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        return [each for each in re.split(r"[\s,'\"]+", text[1:-1]) if each]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    return _PLAIN.get(text.lower(), text)


def arguments(text: str) -> dict[str, object]:
    """Return the arguments of a dataclass printed on one line. The first of a name counts."""
    found: dict[str, object] = {}
    for match in _ARGUMENT.finditer(text):
        if match["key"] in KEYS:
            found.setdefault(match["key"], match["value"].strip())
    return found


def flags(command: str) -> dict[str, object]:
    """Return the options of a command. The last of a name counts."""
    return {match["key"].replace("-", "_"): (match["value"] or "").strip() for match in _FLAG.finditer(command)}
