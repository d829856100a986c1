"""Evidence in torchtune's configs: the YAML that `tune run` takes, and the resolved one that a recipe prints first.

One table names the settings of both. A component is named by its dotted path under `_component_`; nothing is imported.
A value that holds an interpolation (`${output_dir}/logs`) is left out: OmegaConf resolves it when the recipe runs.

OmegaConf prints a config with its keys in alphabetical order, so the component of a section is its first line. Printed
sections are known by their components, not by their indentation: notebooks and documents lose it.
Source: torchtune.config._utils.log_config, recipes/configs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.core.shape import states_size

COMPONENT = "_component_"
Section = Literal["", "model", "tokenizer", "dataset", "optimizer", "other"]
"""Part of a config by the kind of its component; without a name, the settings outside of sections."""
Kind = Literal["count", "number", "share", "truth", "dtype", "file", "set"]
_FACTS: Mapping[Section, Mapping[str, tuple[ObservationName, Kind]]] = {
    "": {
        "batch_size": ("micro_batch_size", "count"),
        "compile": ("compiled", "truth"),
        "dtype": ("dtype", "dtype"),
        "enable_activation_checkpointing": ("gradient_checkpointing", "truth"),
        "epochs": ("epochs", "count"),
        "gradient_accumulation_steps": ("gradient_accumulation_steps", "count"),
    },
    "model": {
        "lora_alpha": ("lora_alpha", "number"),
        "lora_dropout": ("dropout", "share"),
        "lora_rank": ("lora_rank", "number"),
    },
    # A model's own max_seq_len is its context, not the training's.
    "tokenizer": {"max_seq_len": ("max_seq_len", "number")},
    "dataset": {
        "data_files": ("dataset", "file"),
        "max_seq_len": ("max_seq_len", "number"),
        "packed": ("packed", "truth"),
        "source": ("dataset", "set"),
    },
    "optimizer": {"lr": ("learning_rate", "number")},
}
_SWITCHED: Mapping[str, tuple[tuple[ObservationName, str], ...]] = {
    "quantize_base": (("method", "qlora"), ("quantization", "nf4")),
    "use_dora": (("method", "dora"),),
}
"""Switches of a model, and what they mean where they are on."""
_UNITS: Mapping[ObservationName, str] = {"epochs": "epochs", "max_seq_len": "tokens"}
_ADAPTER = re.compile(r"(q?lora)_")
_NOTHING = frozenset({"", "null", "~", "none"})
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
_FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow"})
_LINE = re.compile(r"^(?P<indent>\s*)(?:- )?(?P<key>[A-Za-z_]\w*):(?:\s+(?P<value>\S.*?))?\s*$")
_ITEM = re.compile(r"^\s*- ([A-Za-z_]\w*)\s*$")
_RANK = re.compile(r"^(?:\[(?:rank|default)?\d{1,5}\]:? ?|\s{0,4}\d{1,5}: )")
_RESUME, _MODULES, _FOLDER = "resume_from_checkpoint", "lora_attn_modules", "checkpoint_dir"
_APPLY = ("apply_lora_to_mlp", "apply_lora_to_output")
_MOST_LINES = 400
"""A resolved config has some 80 lines; further down nothing is a setting."""
WORDS: frozenset[str] = frozenset(
    {
        *(COMPONENT, _RESUME, _MODULES, *_APPLY, _FOLDER, *_SWITCHED),
        *(key for facts in _FACTS.values() for key in facts),
        *("q_proj", "k_proj", "v_proj", "output_proj"),
    }
)
"""Words of the lines that are read."""


def _section_of(component: str) -> Section:
    """Return the section of a component by its dotted path: losses, schedules and loggers are others."""
    path, _, last = component.rpartition(".")
    if "tokenizer" in last:
        return "tokenizer"
    if "dataset" in last:
        return "dataset"
    if ".models" in path or _ADAPTER.match(last):
        return "model"
    return "optimizer" if "optim" in path and "lr_scheduler" not in path else "other"


def _component_facts(component: str, section: Section, line: int, *, adapter: bool) -> Iterator[Observation]:
    """Yield the facts in the name of a builder: `torchtune.models.llama3_2.lora_llama3_2_1b`.

    Args:
        component: its dotted path.
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


def _facts(section: Section, key: str, value: object, line: int) -> Iterator[Observation]:
    """Yield the facts of a setting."""
    text = _plain(value)
    if text is None:
        return
    if section == "model" and text.lower() == "true":
        yield from (Observation(name=name, value=word, line=line) for name, word in _SWITCHED.get(key, ()))
    if key not in _FACTS.get(section, {}):
        return
    name, kind = _FACTS[section][key]
    found: str | float | None
    if kind in ("count", "number", "share"):
        number = to_count(text) if kind == "count" else to_number(text)
        found = number if number or kind == "share" else None
    elif kind == "truth":
        found = text.lower() if text.lower() in ("true", "false") else None
    elif kind == "dtype":
        found = _DTYPES.get(text)
    else:
        # A set of the Hub; with a format in its place `data_files` names the file.
        found = None if kind == "set" and text in _FORMATS else text
    if found is not None:
        yield Observation(name=name, value=found, line=line, unit=_UNITS.get(name, "1"), certain=kind != "set")
        if kind == "dtype":
            # The recipes have one dtype for the base and the adapter.
            yield Observation(name="adapter_dtype", value=found, line=line)


def _targets(modules: Iterable[str], applied: Mapping[str, object], line: int) -> Observation:
    """Return the layers with an adapter, by torchtune's names. `mlp` stands for all of its linear layers."""
    more = [key.rpartition("_")[2] for key in _APPLY if applied.get(key) is True]
    return Observation(name="target_modules", value=",".join([*modules, *more]), line=line)


def _folder(value: object, line: int) -> Iterator[Observation]:
    """Yield the folder of the base. It names the model, but it may be an earlier run's checkpoint."""
    text = _plain(value)
    if text is not None and text.rstrip("/"):
        yield Observation(name="model", value=text.rstrip("/"), line=line, certain=False)


def _plain(value: object) -> str | None:
    """Return a setting as text. Return None if it is empty, not a scalar, or unresolved."""
    if isinstance(value, bool | int | float | str):
        text = str(value).strip().strip("'\"").strip()
        return None if text.lower() in _NOTHING or "${" in text else text
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
    checkpointer = document.get("checkpointer")
    if isinstance(checkpointer, Mapping):
        yield from _folder(checkpointer.get(_FOLDER), 0)
    for section in _FACTS:
        part = document.get(section) if section else document
        if not isinstance(part, Mapping):
            continue
        component = _plain(part.get(COMPONENT))
        if component is not None:
            yield from _component_facts(component, section, 0, adapter="lora_rank" in part)
        for key in sorted(part.keys() & WORDS):
            yield from _facts(section, key, part[key], 0)
        modules = part.get(_MODULES)
        if section == "model" and isinstance(modules, list) and all(isinstance(module, str) for module in modules):
            yield _targets(modules, part, 0)


class ResolvedConfig:
    """Reads the lines after `with resolved config:`; between runs it reads nothing."""

    def __init__(self) -> None:
        """Start outside a config."""
        self._until = 0
        self._adapter = False
        self._clear()

    def _clear(self) -> None:
        self._indent: int | None = None
        self._section: Section = "other"
        self._reported: set[str] = set()
        self._modules: list[str] | None = None
        self._apply: dict[str, object] = {}

    def begin(self, number: int, *, adapter: bool) -> None:
        """Start a config after this line. `adapter` is true if the recipe's name shows an adapter."""
        self._clear()
        self._until = number + _MOST_LINES
        self._adapter = adapter

    def end(self) -> None:
        """End the config: the training has begun."""
        self._until = 0

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the facts of a config line. Yield nothing outside a config."""
        if number > self._until:
            return
        text = _RANK.sub("", text, count=1)
        if self._modules is not None:
            item = _ITEM.match(text)
            if item is not None:
                self._modules.append(item.group(1))
                return
            modules, self._modules = self._modules, None
            if modules and self._is_first("targets"):
                yield _targets(modules, self._apply, number)
        match = _LINE.match(text)
        if match is None:
            return
        indent, key, value = len(match.group("indent")), match.group("key"), match.group("value")
        if self._indent is None:
            self._indent = indent
        for event in self._setting(key, value, number, top=indent <= self._indent):
            # Of two models, a student and its teacher, or two datasets the first counts; so does the first of a key.
            if self._is_first(f"{key} {event.name if isinstance(event, Observation) else event.kind.value}"):
                yield event

    def _is_first(self, token: str) -> bool:
        """Return True for a token that was not seen before in this config."""
        first = token not in self._reported
        self._reported.add(token)
        return first

    def _setting(self, key: str, value: str | None, number: int, *, top: bool) -> Iterator[Observation | Sign]:
        if key == COMPONENT:
            component = _plain(value)
            section = "other" if component is None else _section_of(component)
            self._section = section if section != "other" and self._is_first(f"section {section}") else "other"
            if component is not None:
                yield from _component_facts(component, self._section, number, adapter=self._adapter)
        elif key == _MODULES:
            self._modules = [] if value is None and self._section == "model" else None
        elif key in _APPLY:
            self._apply[key] = _plain(value) == "true"
        elif key == _FOLDER:
            yield from _folder(value, number)
        elif key == _RESUME:
            if top and (_plain(value) or "").lower() == "true":
                yield Sign(kind=SignKind.RESUMED, line=number, text=f"{key}: {value}")
        elif key in _FACTS[""]:
            yield from _facts("" if top else "other", key, value, number)
        else:
            yield from _facts(self._section, key, value, number)
