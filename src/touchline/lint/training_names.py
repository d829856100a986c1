"""Rules on names: target modules, weights of another size, and run names and folders against the config."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.model_size import size_of_name
from touchline.core.near import misspelled
from touchline.core.quantity import Missing
from touchline.experiment.partial import Stated, StatedTraining
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


_TOKEN: Final = r"(?:^|(?<=[^a-z0-9]))(?:{})(?=$|[^a-z0-9.]|\.(?!\d))"
_NUMBER: Final = r"\d+(?:\.\d+)?"
_IN_NAMES: Final = (
    ("rank", rf"(?:lora[-_]?)?rank[-_=]?({_NUMBER})|lora[-_]?r[-_=]?(\d+)|r(8|16|32|64|128|256)"),
    ("alpha", rf"lora[-_]?alpha[-_=]?({_NUMBER})"),
    ("learning_rate", rf"(?:lr|learning[-_]rate)[-_=]?({_NUMBER}e-?\d+|0?\.\d+)"),
    ("epochs", rf"({_NUMBER})[-_]?ep(?:ochs?)?"),
    ("seed", r"seed[-_=]?(\d+)"),
)
"""Settings in names, each with its usual spelling."""
_PATTERNS: Final = tuple((field, re.compile(_TOKEN.format(pattern))) for field, pattern in _IN_NAMES)
_RUN_FILES: Final = frozenset({"finetune.yaml", "setup_finetune.yaml"})
_NEAR: Final = 1e-6


@rule("TR026", Severity.WARNING)
def name_of_another_setting(view: TrainingView) -> Iterator[Violation]:
    """Report a run name or output folder that states other settings than its config."""
    stated = view.stated
    reported: set[str] = set()
    for name in _names(stated):
        for field, pattern in _PATTERNS:
            at: Stated[float] | None = getattr(stated, field)
            said = {next(group for group in match.groups() if group) for match in pattern.finditer(name.lower())}
            if at is None or len(said) != 1 or field in reported:
                continue
            (text,) = said
            if math.isclose(float(text), at.value, rel_tol=_NEAR):
                continue
            reported.add(field)
            yield Violation(message=f"{name} is called by {field.replace('_', ' ')} {text}, and {at} is trained", at=at)


def _names(stated: StatedTraining) -> list[str]:
    """Return the names of a training: its run's folder, and the last part of its output folder."""
    found = [stated.subject] if PurePosixPath(stated.where.path).name in _RUN_FILES else []
    if traits_of(stated.backend).is_ours:
        found = [stated.subject]
    if stated.output_dir is not None:
        found.append(PurePosixPath(stated.output_dir.value).name)
    return list(dict.fromkeys(found))


@rule("CK015", Severity.ERROR)
def output_over_base_model(view: TrainingView) -> Iterator[Violation]:
    """Report an output folder that is the base model's folder."""
    stated = view.stated
    output = stated.output_dir
    written = "$" if output is None else _plain(output.value)
    if output is None or "$" in written:
        return
    for base in (stated.model, stated.model_path):
        if base is None:
            continue
        place = _plain(base.value)
        if written == place:
            message = f"{output} is the folder of the base model ({base})"
            yield Violation(message=message, at=output, hint="output_dir: runs/...")
            return
        if base is stated.model_path and written.startswith(place + "/"):
            message = f"{output} is inside the folder of the base model ({base}), which {stated.backend} refuses"
            yield Violation(message=message, at=output, hint="output_dir: runs/...")
            return


def _plain(path: str) -> str:
    """Normalize a path: no doubled slashes, `.`, `..` or slash at its end; home written as `~`."""
    text = path.strip().removeprefix("file://")
    text = re.sub(r"^(?:\$\{?HOME\}?)(?=/|$)", "~", text)
    plain = posixpath.normpath(text)
    return plain[1:] if plain.startswith("//") else plain
