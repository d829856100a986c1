"""torchtune's configs: the YAML that `tune run` takes, and the resolved one that a recipe prints first.

A component is named by its dotted path under `_component_`; nothing is imported. A value that holds an interpolation
(`${output_dir}/logs`) is left out: it is resolved by OmegaConf when the recipe runs.
Source: torchtune.config._utils.log_config, recipes/configs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import Row
from touchline.core.model_size import states_size
from touchline.core.observation import Event, Observation, ObservationName

COMPONENT = "_component_"
Section = Literal["model", "tokenizer", "dataset", "optimizer"]
"""Parts of a config that describe the training, by the kind of their component."""

_ADAPTER = re.compile(r"(q?lora)_")
_INTERPOLATION = "${"
_NOTHING = frozenset({"", "null", "~", "none"})
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
_TRUTH = {"true": "true", "false": "false"}
_FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow"})
_TOP_COUNTS: dict[str, ObservationName] = {
    "batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "epochs": "epochs",
}
_TOP_SWITCHES: dict[str, ObservationName] = {
    "enable_activation_checkpointing": "gradient_checkpointing",
    "compile": "compiled",
}
TOP_KEYS = frozenset({*_TOP_COUNTS, *_TOP_SWITCHES, "dtype"})
"""Settings outside of sections."""
SECTION_KEYS: dict[Section, frozenset[str]] = {
    "model": frozenset({"lora_rank", "lora_alpha", "lora_dropout", "use_dora", "quantize_base"}),
    "tokenizer": frozenset({"max_seq_len"}),
    "dataset": frozenset({"packed", "max_seq_len", "source", "data_files"}),
    "optimizer": frozenset({"lr"}),
}
"""Settings of a section; a model's own `max_seq_len` is its context, not the training's."""


def section_of(component: str) -> Section | None:
    """Return the section of a component, by its dotted path. Return None for losses, schedules, loggers and
    checkpointers.
    """
    path, _, last = component.rpartition(".")
    if "tokenizer" in last:
        return "tokenizer"
    if "dataset" in last:
        return "dataset"
    if ".models" in path or _ADAPTER.match(last):
        return "model"
    return "optimizer" if "optim" in path and "lr_scheduler" not in path else None


def component_facts(component: str, section: Section, line: int, *, adapter: bool) -> Iterator[Observation]:
    """Yield the facts in the name of a model's or optimizer's builder: `torchtune.models.llama3_2.lora_llama3_2_1b`.

    Args:
        component: its dotted path.
        section: what it is.
        line: line of it.
        adapter: whether something else, the recipe's name or a rank, shows that an adapter is trained.
    """
    last = component.rpartition(".")[2]
    if section == "optimizer":
        yield Observation(name="optimizer", value=last, line=line)
    if section != "model":
        return
    match = _ADAPTER.match(last)
    name = last[match.end() :] if match else last
    # A builder without a size is filled with the dimensions of any model.
    yield Observation(name="model", value=name, line=line, certain=states_size(name))
    if match is not None:
        yield Observation(name="method", value=match.group(1), line=line)
        if match.group(1).startswith("q"):
            yield Observation(name="quantization", value="nf4", line=line)
    elif not adapter and component.startswith("torchtune.models."):
        yield Observation(name="method", value="full", line=line)


def top_fact(key: str, value: object, line: int) -> Iterator[Observation]:
    """Yield the fact of a setting outside all sections."""
    text = plain(value)
    if text is None:
        return
    if key in _TOP_COUNTS:
        count = to_count(text)
        if count:
            unit = "epochs" if key == "epochs" else "1"
            yield Observation(name=_TOP_COUNTS[key], value=count, line=line, unit=unit)
    elif key == "dtype" and text in _DTYPES:
        # The recipes have one dtype for the base and the adapter.
        yield Observation(name="dtype", value=_DTYPES[text], line=line)
        yield Observation(name="adapter_dtype", value=_DTYPES[text], line=line)
    elif key in _TOP_SWITCHES and text.lower() in _TRUTH:
        yield Observation(name=_TOP_SWITCHES[key], value=text.lower(), line=line)


def section_fact(section: Section, key: str, value: object, line: int) -> Iterator[Observation]:
    """Yield the fact of a setting in a section."""
    text = plain(value)
    if text is None or key not in SECTION_KEYS[section]:
        return
    number = to_number(text)
    said_true = text.lower() == "true"
    match key:
        case "lora_rank" if number:
            yield Observation(name="lora_rank", value=number, line=line)
        case "lora_alpha" if number:
            yield Observation(name="lora_alpha", value=number, line=line)
        case "lora_dropout" if number is not None:
            yield Observation(name="dropout", value=number, line=line)
        case "use_dora" if said_true:
            yield Observation(name="method", value="dora", line=line)
        case "quantize_base" if said_true:
            yield Observation(name="method", value="qlora", line=line)
            yield Observation(name="quantization", value="nf4", line=line)
        case "packed" if text.lower() in _TRUTH:
            yield Observation(name="packed", value=text.lower(), line=line)
        case "max_seq_len" if number:
            yield Observation(name="max_seq_len", value=number, line=line, unit="tokens")
        case "data_files":
            yield Observation(name="dataset", value=text, line=line)
        case "source" if text not in _FORMATS:
            # A set of the Hub; with a format in its place `data_files` names the file.
            yield Observation(name="dataset", value=text, line=line, certain=False)
        case "lr" if number:
            yield Observation(name="learning_rate", value=number, line=line)
        case _:
            return


def targets_fact(modules: list[str], *, mlp: bool, output: bool, line: int) -> Observation:
    """Return the layers with an adapter, by torchtune's names. `mlp` stands for all of its linear layers."""
    names = [*modules, *(["mlp"] if mlp else []), *(["output"] if output else [])]
    return Observation(name="target_modules", value=",".join(names), line=line)


def folder_fact(value: object, line: int) -> Iterator[Observation]:
    """Yield the folder of the base. It names the model, but it may be an earlier run's checkpoint."""
    text = plain(value)
    if text is not None and text.rstrip("/"):
        yield Observation(name="model", value=text.rstrip("/"), line=line, certain=False)


def plain(value: object) -> str | None:
    """Return a setting as text. Return None if it is empty, not a scalar, or unresolved."""
    if isinstance(value, bool | int | float | str):
        text = str(value).strip().strip("'\"").strip()
        return None if text.lower() in _NOTHING or _INTERPOLATION in text else text
    return None


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read a config. Return None for any other mapping, and for configs of generation and evaluation."""
    del name
    components = [part[COMPONENT] for part in document.values() if isinstance(part, Mapping) and COMPONENT in part]
    ours = any(isinstance(path, str) and path.startswith("torchtune.") for path in components)
    if not ours or "optimizer" not in document or "epochs" not in document:
        return None
    return (Observation(name="trainer", value="torchtune", line=0), *_document_facts(document))


def _document_facts(document: Row) -> Iterator[Observation]:
    for key in sorted(TOP_KEYS & document.keys()):
        yield from top_fact(key, document[key], 0)
    checkpointer = document.get("checkpointer")
    if isinstance(checkpointer, Mapping):
        yield from folder_fact(checkpointer.get("checkpoint_dir"), 0)
    for section in SECTION_KEYS:
        part = document.get(section)
        if not isinstance(part, Mapping):
            continue
        component = plain(part.get(COMPONENT))
        if component is not None:
            yield from component_facts(component, section, 0, adapter="lora_rank" in part)
        for key in sorted(SECTION_KEYS[section] & part.keys()):
            yield from section_fact(section, key, part[key], 0)
        modules = part.get("lora_attn_modules")
        if section == "model" and isinstance(modules, list) and all(isinstance(module, str) for module in modules):
            mlp, output = (part.get(f"apply_lora_to_{what}") is True for what in ("mlp", "output"))
            yield targets_fact(modules, mlp=mlp, output=output, line=0)
