"""LLaMA-Factory's settings as evidence: its YAML or JSON file, and the arguments as its first versions printed them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from touchline.backends.evidence import observations, reader_of
from touchline.backends.llamafactory.stated import ADAPTER_KEYS, state_training
from touchline.backends.llamafactory.stated import KEYS as STATED_KEYS
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation
from touchline.experiment.partial import Stated

_ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
KEYS: frozenset[str] = frozenset(
    {
        *(key for _, keys, _ in {**STATED_KEYS, **ADAPTER_KEYS}.values() for key in keys.split()),
        *("finetuning_type", "use_dora", "quantization_method", "quantization_type", "packing", "neat_packing"),
        *("bf16", "fp16", "pure_bf16", "disable_gradient_checkpointing"),
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
    trains = reader_of(document).on("do_train") or ("dataset" in document and "output_dir" in document)
    if not trains or "export_dir" in document:
        return None
    return (Observation(name="trainer", value="llamafactory", line=0), *settings(document, {}))


def settings(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a mapping of settings.

    Args:
        values: the settings by LLaMA-Factory's names.
        lines: line of each; 0 for those that are not there.
    """
    reader = reader_of(values)
    stated = state_training(reader)
    attention = stated.attention
    word = None if attention is None else _ATTENTION.get(attention.value)
    stated = replace(
        stated, attention=None if word is None or attention is None else Stated(word, attention.key, attention.where)
    )
    if stated.method is not None and not stated.method.is_default and reader.on("use_dora"):
        yield Observation(name="method", value="dora", line=lines.get("finetuning_type", 0))
        stated = replace(stated, method=None)
    other = str(values.get("quantization_method") or "bnb") not in ("bnb", "bitsandbytes")
    bits, kind = stated.quantization_bits, values.get("quantization_type")
    if bits is not None and (other or (kind and bits.value == 4)):
        value = f"{bits.value}-bit" if other else str(kind)
        yield Observation(name="quantization", value=value, line=lines.get(bits.key, 0))
        stated = replace(stated, quantization_bits=None)
    yield from observations(stated, lines)
