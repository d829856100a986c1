"""Facts of a past run that its log may not hold, and that its user can state: by a flag, or in a file next to the log.

One table names them for the command line, the file, the readers and the refusals of estimates.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from touchline.core.observation import ObservationName
from touchline.experiment.training import DEFAULT_BACKEND

FACTS_FILE: Final = "touchline-facts.yaml"
"""Name of the file that states facts of the logs in its folder and below."""
STATED: Final = "stated"
"""Provenance of what the user stated."""
DTYPES: Final = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
}
"""Words for an element type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FactKey:
    """Fact that can be stated."""

    name: ObservationName
    """The observation that it stands for."""
    form: Literal["word", "count", "number", "share", "bool"]
    """Form of its value; a share is a number from 0 to 1."""
    example: str
    """A value, as it may be written."""
    unit: str = "1"
    words: tuple[str, ...] = ()
    """The only words allowed; empty: any."""


FACTS: Final[dict[str, FactKey]] = {
    "gpu": FactKey(name="gpu", form="word", example="A100-80GB"),
    "gpus": FactKey(name="gpus", form="count", example="1"),
    "model": FactKey(name="model", form="word", example="meta-llama/Llama-3.2-1B-Instruct"),
    "trainer": FactKey(name="trainer", form="word", example=DEFAULT_BACKEND),
    "method": FactKey(name="method", form="word", example="lora", words=("lora", "qlora", "full")),
    "precision": FactKey(name="dtype", form="word", example="bf16", words=tuple(DTYPES)),
    "adapter_dtype": FactKey(name="adapter_dtype", form="word", example="float32", words=tuple(DTYPES)),
    "quantization": FactKey(name="quantization", form="word", example="nf4"),
    "rank": FactKey(name="lora_rank", form="count", example="64"),
    "alpha": FactKey(name="lora_alpha", form="number", example="128"),
    "target_modules": FactKey(name="target_modules", form="word", example="q_proj,v_proj"),
    "dropout": FactKey(name="dropout", form="share", example="0.05"),
    "optimizer": FactKey(name="optimizer", form="word", example="adamw"),
    "learning_rate": FactKey(name="learning_rate", form="number", example="2e-4"),
    "gradient_checkpointing": FactKey(name="gradient_checkpointing", form="bool", example="true"),
    "compiled": FactKey(name="compiled", form="bool", example="false"),
    "attention": FactKey(name="attention", form="word", example="sdpa"),
    "micro_batch_size": FactKey(name="micro_batch_size", form="count", example="4"),
    "gradient_accumulation_steps": FactKey(name="gradient_accumulation_steps", form="count", example="1"),
    "global_batch_size": FactKey(name="global_batch_size", form="count", example="16"),
    "epochs": FactKey(name="epochs", form="number", example="1", unit="epochs"),
    "max_seq_len": FactKey(name="max_seq_len", form="count", example="2048", unit="tokens"),
    "packed": FactKey(name="packed", form="bool", example="false"),
    "grouped_by_length": FactKey(name="grouped_by_length", form="bool", example="false"),
    "mean_length": FactKey(name="mean_tokens", form="number", example="210", unit="tokens"),
    "longest_length": FactKey(name="longest_tokens", form="count", example="512", unit="tokens"),
    "dataset": FactKey(name="dataset", form="word", example="data.json"),
}
"""The facts by the key that states them; `gpu` is `--gpu` on the command line and `gpu:` in the file."""


OPTIONS: Final = ("gpu", "gpus", "model", "dataset", "trainer", "method", "precision")
"""Facts with an option of their own; the others are stated as `--fact KEY=VALUE`."""


def flag_of(key: str) -> str:
    """Return the option that states a fact."""
    return f"--{key}" if key in OPTIONS else f"--fact {key}=..."


_NOTHING_KNOWN: Final[Mapping[str, str]] = MappingProxyType({})


def pasted(keys: tuple[str, ...], known: Mapping[str, str] = _NOTHING_KNOWN) -> str:
    """Return options that state these facts, with the values that are known and examples of the others."""
    values = {key: shlex.quote(known.get(key, FACTS[key].example)) for key in keys}
    return " ".join(f"--{key} {value}" if key in OPTIONS else f"--fact {key}={value}" for key, value in values.items())
