"""The config that a recipe prints before it begins, line by line.

OmegaConf writes it with its keys in alphabetical order, so the component of a section is its first line. Sections are
known by their components, not by their indentation: notebooks and documents lose it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from touchline.backends.torchtune.config import (
    COMPONENT,
    SECTION_KEYS,
    TOP_KEYS,
    Section,
    component_facts,
    folder_fact,
    plain,
    section_fact,
    section_of,
    targets_fact,
    top_fact,
)
from touchline.core.observation import Event, Observation, Sign, SignKind

_LINE = re.compile(r"^(?P<indent>\s*)(?:- )?(?P<key>[A-Za-z_]\w*):(?:\s+(?P<value>\S.*?))?\s*$")
_ITEM = re.compile(r"^\s*- ([A-Za-z_]\w*)\s*$")
_RANK = re.compile(r"^(?:\[(?:rank|default)?\d{1,5}\]:? ?|\s{0,4}\d{1,5}: )")
_RESUME = "resume_from_checkpoint"
_MODULES = "lora_attn_modules"
_APPLY = ("apply_lora_to_mlp", "apply_lora_to_output")
_MOST_LINES = 400
"""A resolved config has some 80 lines; further down nothing is a setting."""
WORDS: frozenset[str] = frozenset(
    {
        *(COMPONENT, _RESUME, _MODULES, *_APPLY, "checkpoint_dir", "lora_dropout"),
        *TOP_KEYS,
        *(key for keys in SECTION_KEYS.values() for key in keys),
        *("q_proj", "k_proj", "v_proj", "output_proj"),
    }
)
"""Words of the lines that are read."""


class ResolvedConfig:
    """Reads the lines after `with resolved config:`; between runs it reads nothing."""

    def __init__(self) -> None:
        """Start outside a config."""
        self._until = 0
        self._adapter = False
        self._clear()

    def _clear(self) -> None:
        self._indent: int | None = None
        self._section: Section | Literal["other"] | None = None
        self._reported: set[str] = set()
        self._modules: list[str] | None = None
        self._apply: dict[str, bool] = {}

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
            yield from self._targets(number)
        match = _LINE.match(text)
        if match is None:
            return
        indent, key, value = len(match.group("indent")), match.group("key"), match.group("value")
        if self._indent is None:
            self._indent = indent
        for event in self._setting(key, value, number, top=indent <= self._indent):
            # Of two models, a student and its teacher, or two datasets the first counts; so does the first of a key.
            name = event.name if isinstance(event, Observation) else event.kind.value
            token = f"{key} {name}"
            if token not in self._reported:
                self._reported.add(token)
                yield event

    def _setting(self, key: str, value: str | None, number: int, *, top: bool) -> Iterator[Observation | Sign]:
        if key == COMPONENT:
            yield from self._component(plain(value), number)
        elif key == _MODULES:
            self._modules = [] if value is None and self._section == "model" else None
        elif key in _APPLY:
            self._apply[key] = plain(value) == "true"
        elif key == "checkpoint_dir":
            yield from folder_fact(value, number)
        elif key == _RESUME:
            if top and (plain(value) or "").lower() == "true":
                yield Sign(kind=SignKind.RESUMED, line=number, text=f"{key}: {value}")
        elif key in TOP_KEYS:
            if top:
                yield from top_fact(key, value, number)
        elif self._section is not None and self._section != "other":
            yield from section_fact(self._section, key, value, number)

    def _component(self, component: str | None, number: int) -> Iterator[Observation]:
        section = None if component is None else section_of(component)
        seen = f"section {section}" in self._reported
        self._section = "other" if section is None or seen else section
        if section is None or component is None or seen:
            return
        self._reported.add(f"section {section}")
        yield from component_facts(component, section, number, adapter=self._adapter)

    def _targets(self, number: int) -> Iterator[Observation]:
        """End the list of modules."""
        modules, self._modules = self._modules, None
        if modules and "targets" not in self._reported:
            self._reported.add("targets")
            mlp, output = (self._apply.get(key, False) for key in _APPLY)
            yield targets_fact(modules, mlp=mlp, output=output, line=number)
