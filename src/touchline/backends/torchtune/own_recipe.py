"""Recipes that `train.recipe` names: what they read of finetune.yaml, from the syntax tree alone.

The config is `cfg` in every recipe of torchtune and in copies of them. Keys inside a section, and keys that code of
another module reads from the whole config, are not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from touchline.backends.torchtune.recipes import RECIPES, VALIDATION_KEYS, recipe_for
from touchline.experiment.experiment import TrainConfig

WRITTEN_KEYS = frozenset(
    {
        *("output_dir", "model", "tokenizer", "checkpointer", "resume_from_checkpoint", "save_adapter_weights_only"),
        *("dataset", "seed", "shuffle", "batch_size", "epochs", "max_steps_per_epoch", "gradient_accumulation_steps"),
        *("optimizer", "clip_grad_norm", "lr_scheduler", "loss", "compile", "device", "dtype"),
        *("enable_activation_checkpointing", "enable_activation_offloading", "metric_logger"),
        *("log_every_n_steps", "log_peak_memory_stats"),
    }
)
"""Top-level keys of finetune.yaml for a recipe that validates nothing."""
_MAY_BE_UNREAD = frozenset({"output_dir", "enable_activation_offloading", "log_every_n_steps", "log_peak_memory_stats"})
"""Keys that change neither the training nor its records where a recipe does not read them."""
_CONFIG = "cfg"
_OPTIONAL_READERS = frozenset({"get", "pop", "setdefault"})
_HARMLESS = frozenset({"log_config", "print", "isinstance"})
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(kw_only=True, slots=True)
class ConfigKeys:
    """Top-level keys that a recipe reads."""

    required: set[str] = field(default_factory=set)
    """Read as `cfg.KEY` or `cfg["KEY"]`."""
    optional: set[str] = field(default_factory=set)
    """Also tested, or read with a default."""
    is_open: bool = False
    """Whether the config is given away whole, so that other code may read other keys."""


def recipe_keys(tree: ast.Module) -> tuple[str, ...]:
    """Return the keys that finetune.yaml holds and the recipe reads; all of them if other code may read them."""
    keys, known = config_keys(tree), WRITTEN_KEYS.union(VALIDATION_KEYS)
    return tuple(sorted(known if keys.is_open else known & (keys.required | keys.optional)))


def recipe_faults(train: TrainConfig, tree: ast.Module | None, devices: int, *, validates: bool) -> Iterator[str]:
    """Yield what forbids a training by the recipe that `train.recipe` names.

    Args:
        train: the training.
        tree: the syntax tree of the recipe's file; None for a name.
        devices: data-parallel size.
        validates: whether there is a validation split.
    """
    if tree is None:
        yield from _name_faults(train, devices)
        return
    if not any(_is_entry(node) for node in ast.walk(tree)):
        yield "it is no recipe of torchtune: no function has the decorator @config.parse"
        return
    if _names(tree, "init_process_group") != (devices > 1):
        kind = "for one device" if devices > 1 else "for several devices: it calls init_process_group"
        yield f"it is a recipe {kind}, and the run has {devices}"
    keys = config_keys(tree)
    written = WRITTEN_KEYS.union(VALIDATION_KEYS if validates else ())
    for key in sorted(keys.required - keys.optional - written):
        split = "; the data has no validation split" if key in VALIDATION_KEYS else ""
        yield f"it needs the key {key!r}, which finetune.yaml does not have{split}"
    if keys.is_open:
        return
    read = keys.required | keys.optional
    for key in sorted(WRITTEN_KEYS - _MAY_BE_UNREAD - read):
        yield f"it never reads the key {key!r} of finetune.yaml"
    if "run_val_every_n_steps" not in read and train.validate_every_steps is not None:
        yield "it never reads the key 'run_val_every_n_steps', and train.validate_every_steps is set"


def _name_faults(train: TrainConfig, devices: int) -> Iterator[str]:
    fits = recipe_for(devices, validation=False).name
    if train.recipe != fits:
        names = " (one device) or ".join(recipe.name for recipe in RECIPES.values() if not recipe.own)
        run = "1 device" if devices == 1 else f"{devices} devices"
        yield f"the run has {run}; expected {names} (several), or the path of a file that `tune cp` gives"
    elif train.validate_every_steps is not None:
        yield "torchtune's own recipe validates nothing, and train.validate_every_steps is set"


def _is_entry(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(_last_name(each) == "parse" for each in node.decorator_list)


def _names(tree: ast.Module, name: str) -> bool:
    return any(_last_name(node) == name for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute))


def _last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def config_keys(tree: ast.Module) -> ConfigKeys:
    """Return the top-level keys of the config that a recipe reads."""
    keys, seen = ConfigKeys(), set[ast.AST]()
    takers = set(_takers(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _read_call(node, takers, keys, seen)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            _note(keys.optional, node.left, node.comparators[0], keys, seen)
        elif isinstance(node, ast.Subscript):
            group = keys.required if isinstance(node.ctx, ast.Load) else keys.optional
            _note(group, node.slice, node.value, keys, seen)
        elif isinstance(node, ast.Attribute) and _is_config(node.value) and node.value not in seen:
            seen.add(node.value)
            (keys.required if isinstance(node.ctx, ast.Load) else keys.optional).add(node.attr)
    keys.is_open |= any(_is_config(node) and node not in seen for node in ast.walk(tree))
    return keys


def _is_config(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == _CONFIG


def _note(group: set[str], key: ast.expr, config: ast.expr, keys: ConfigKeys, seen: set[ast.AST]) -> None:
    """Add a key of the config to a group. An unknown key may be any; constants in capitals are torchtune's own."""
    if not _is_config(config):
        return
    seen.add(config)
    if isinstance(key, ast.Constant):
        group.add(str(key.value))
    elif not _last_name(key).isupper():
        keys.is_open = True


def _read_call(node: ast.Call, takers: set[str], keys: ConfigKeys, seen: set[ast.AST]) -> None:
    called, name = node.func, _last_name(node.func)
    if isinstance(called, ast.Attribute) and name in _OPTIONAL_READERS and node.args:
        _note(keys.optional, node.args[0], called.value, keys, seen)
    elif name in {"getattr", "hasattr"} and len(node.args) > 1:
        group = keys.required if name == "getattr" and len(node.args) == 2 else keys.optional
        _note(group, node.args[1], node.args[0], keys, seen)
    elif isinstance(called, ast.Attribute) and _is_config(called.value):
        # Another method of the config: items, copy, ...
        seen.add(called.value)
        keys.is_open = True
    elif name in _HARMLESS or (name in takers and not _is_super(called)):
        seen.update(each for each in (*node.args, *(word.value for word in node.keywords)) if _is_config(each))


def _is_super(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and isinstance(called.value, ast.Call)
        and _last_name(called.value.func) == "super"
    )


def _takers(tree: ast.Module) -> Iterator[str]:
    """Yield the functions and classes of the file that take the config under its name."""
    for node in ast.walk(tree):
        if isinstance(node, _Definition):
            inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            for function in inits if isinstance(node, ast.ClassDef) else [node]:
                arguments = function.args
                if _CONFIG in {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}:
                    yield node.name
