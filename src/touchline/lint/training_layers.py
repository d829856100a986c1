"""Rules on layers that the model does not have, lengths that no model supports, and weights of another size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.model_size import size_of_name
from touchline.core.near import misspelled
from touchline.core.quantity import Missing
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

_LLAMA: Final = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_GPT2: Final = frozenset({"c_attn", "c_proj", "c_fc"})
_NEOX: Final = frozenset({"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"})
_LAYERS: Final = frozenset(
    {*_LLAMA, *_GPT2, *_NEOX, "qkv_proj", "gate_up_proj", "out_proj", "fc1", "fc2", "Wqkv", "W_pack", "in_proj"}
    | {
        "query",
        "key",
        "value",
        "q",
        "k",
        "v",
        "o",
        "wq",
        "wk",
        "wv",
        "wo",
        "w1",
        "w2",
        "w3",
        "query_proj",
        "value_proj",
    }
)
"""Names of linear layers that differ between architectures."""
_NAMED: Final = (
    (re.compile(r"(?<![a-z])(?:tiny)?llama-?[23v]|tinyllama|qwen(?:1\.5|[23])|(?<![a-z])mi[sx]tral|smollm"), _LLAMA),
    (re.compile(r"(?<![a-z])gemma-?[123]?-\d"), _LLAMA),
    (re.compile(r"(?<![a-z])gpt-?2(?![a-z0-9.])"), _GPT2),
    (re.compile(r"(?<![a-z])(?:pythia|gpt-neox)"), _NEOX),
)
"""Architectures by parts of model names, used without config.json."""
_PLAIN: Final = re.compile(r"[\w.]+")
_ALIKE: Final = 1.5
"""Tolerance for rounded names: the same model is named 7B and 8B."""


@rule("TR060", Severity.ERROR)
def unknown_target_modules(view: TrainingView) -> Iterator[Violation]:
    """Report an adapter on layers that the model does not have."""
    stated, targets = view.stated, view.stated.target_modules
    if targets is None or targets.is_default or traits_of(stated.backend).layer_names:
        return
    own = _own_layers(view)
    if own is None or not all(_PLAIN.fullmatch(each) for each in targets.value):
        return
    wanted = {each.rpartition(".")[2] for each in targets.value}
    foreign = sorted(each for each in wanted & _LAYERS if each not in own)
    if not foreign:
        return
    known, sure = ", ".join(sorted(own)), not wanted & own and wanted <= _LAYERS
    shape = None if isinstance(view.model, Missing) or isinstance(view.model.shape, Missing) else view.model.shape
    if not sure and (shape is None or shape.extrapolated is not None):
        # Its other parts, such as an image encoder or experts, are unknown.
        return
    yield Violation(
        message=f"{stated.model.value if stated.model else 'the model'} has no layers named {', '.join(foreign)}: "
        + ("there is nothing to adapt" if sure else "they silently get no adapter"),
        at=targets,
        hint=f"its layers are {known}",
        severity=Severity.ERROR if sure else Severity.WARNING,
    )


@rule("TR080", Severity.ERROR)
def misspelled_target_module(view: TrainingView) -> Iterator[Violation]:
    """Report misspelled target modules."""
    targets = view.stated.target_modules
    if targets is None or targets.is_default or traits_of(view.stated.backend).layer_names:
        return
    own = _own_layers(view)
    usual = _LLAMA if own is None else own
    names = {each.rpartition(".")[2] for each in targets.value if _PLAIN.fullmatch(each)}
    if own is None and not names & usual:
        return
    for each in sorted(names - _LAYERS - usual):
        near = misspelled(each, usual, names)
        if near is not None and "_" in near:
            yield Violation(message=f"unknown layer {each}; did you mean {near}?", at=targets, hint=near)


def _own_layers(view: TrainingView) -> frozenset[str] | None:
    """Return the names of the model's linear layers, from its dimensions or its name."""
    if not isinstance(view.model, Missing) and not isinstance(view.model.shape, Missing):
        shape = view.model.shape
        if shape.extrapolated is None and shape.linears:
            return frozenset(linear.name.rpartition(".")[2] for linear in shape.linears)
    name = "" if view.stated.model is None else view.stated.model.value.rpartition("/")[2].lower()
    return next((layers for pattern, layers in _NAMED if pattern.search(name)), None)


@rule("TR063", Severity.WARNING)
def weights_of_another_size(view: TrainingView) -> Iterator[Violation]:
    """Report a model and weights whose names state different sizes."""
    stated = view.stated
    if stated.model is None or stated.model_path is None:
        return
    built, place = size_of_name(stated.model.value), stated.model_path.value.rstrip("/").rpartition("/")[2]
    stored = size_of_name(place)
    if built is not None and stored is not None and not 1 / _ALIKE < stored / built < _ALIKE:
        yield Violation(
            message=f"{stated.model.value} is built, and its weights are read from {place}", at=stated.model_path
        )
