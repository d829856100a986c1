"""Choice of torchtune's recipe by devices and validation.

Stock 0.6.1 never validates; the recipes that do are touchline's own, written into the run's folder. Each is the stock
recipe for as many devices, with validation and a training state within an epoch. The stock recipe for several devices
needs NCCL, so several processes on a CPU take touchline's own, which validates nothing without a validation split.

Of a recipe that `train.recipe` names, what it reads of finetune.yaml is seen from the syntax tree alone. The config is
`cfg` in every recipe of torchtune and in copies of them. Keys inside a section, and keys that code of another module
reads from the whole config, are not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from touchline.backends.external import RECIPE_MODULE
from touchline.backends.package_files import package_text
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.plan import Plan, PlannedRun

VALIDATION_KEYS = ("dataset_val", "run_val_every_n_steps")
"""Keys of finetune.yaml on validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Recipe that `tune run` takes."""

    name: str
    """Its name: of a stock recipe, or of a module in the run's folder."""
    own: bool = False
    """Whether it is touchline's own, in a file of the run's folder."""


RECIPES: dict[tuple[bool, bool], Recipe] = {
    (False, False): Recipe(name="lora_finetune_single_device"),
    (True, False): Recipe(name="lora_finetune_distributed"),
    (False, True): Recipe(name="lora_finetune_single_device_val", own=True),
    (True, True): Recipe(name="lora_finetune_distributed_val", own=True),
}
"""Recipes by (several devices, validation)."""


def recipe_for(devices: int, *, validation: bool, on_cpu: bool = False) -> Recipe:
    """Return the recipe for a number of devices, with validation during the training or without.

    Args:
        validation: whether there is a validation split.
        on_cpu: whether the devices are processes that share a CPU.
    """
    several = devices > 1
    return RECIPES[several, validation or (several and on_cpu)]


def has_validation(run: PlannedRun, plan: Plan) -> bool:
    """Return whether the run's dataset has a validation split."""
    return any(split.name == "validation" and split.num_examples for split in plan.datasets[run.dataset].splits)


def planned_recipe(run: PlannedRun, plan: Plan) -> Recipe:
    """Return the recipe of a planned run."""
    if run.recipe is not None:
        return Recipe(name=RECIPE_MODULE)
    if run.train is not None and run.train.recipe is not None:
        return Recipe(name=run.train.recipe)
    devices = 1 if run.batches is None else run.batches.data_parallel_size
    return recipe_for(devices, validation=has_validation(run, plan), on_cpu=plan.machine.kind == "cpu")


def validation_keys(run: PlannedRun, plan: Plan) -> tuple[str, ...]:
    """Return the keys of finetune.yaml on validation: none without a split, or for a recipe that reads none."""
    if not has_validation(run, plan):
        return ()
    if run.recipe is None:
        return VALIDATION_KEYS if planned_recipe(run, plan).own else ()
    return tuple(key for key in VALIDATION_KEYS if key in run.recipe.keys)


def recipe_text(run: PlannedRun, plan: Plan) -> str:
    """Return the recipe of a planned run for the plan."""
    recipe, file = planned_recipe(run, plan), run.recipe
    if file is None:
        text = f"{recipe.name} ({'touchline' if recipe.own else 'torchtune'}'s own)"
    else:
        text = f"{file.path} (your own code, {file.lines:,} lines, sha256 {file.sha256[:12]}: review it)"
    if has_validation(run, plan) and "dataset_val" not in validation_keys(run, plan):
        text += ", which measures no validation loss"
    if run.train is not None and run.train.recipe is not None:
        text += ". Not shown for train.recipe: losses equal to other trainers', resuming within an epoch"
    return text


COMPONENTS = "run_components"
"""Module in the run's folder with the components of finetune.yaml: planned data, rates, records."""


def recipe_files(recipe: Recipe) -> dict[str, str]:
    """Return the files that a recipe needs in the run's folder, by name."""
    names = (COMPONENTS, recipe.name) if recipe.own else (COMPONENTS,)
    return {f"{name}.py": package_text("torchtune", f"{name}.py.txt") for name in names}


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
        tree: the syntax tree of the recipe's file; None for a name.
        devices: data-parallel size.
        validates: whether there is a validation split.
    """
    if tree is None:
        yield from _name_faults(train, devices)
        return
    if not any(_is_entry(node) for node in ast.walk(tree)):
        yield "it is not a torchtune recipe, because no function has the decorator @config.parse"
        return
    if _names(tree, "init_process_group") != (devices > 1):
        kind = "for one device" if devices > 1 else "for several devices: it calls init_process_group"
        yield f"it is a recipe {kind}, but the run has {devices}"
    keys = config_keys(tree)
    written = WRITTEN_KEYS.union(VALIDATION_KEYS if validates else ())
    for key in sorted(keys.required - keys.optional - written):
        split = " (the data has no validation split)" if key in VALIDATION_KEYS else ""
        yield f"it needs the key {key!r}, which finetune.yaml does not have{split}"
    if keys.is_open:
        return
    read = keys.required | keys.optional
    for key in sorted(WRITTEN_KEYS - _MAY_BE_UNREAD - read):
        yield f"it never reads the key {key!r} of finetune.yaml"
    if "run_val_every_n_steps" not in read and train.validate_every_steps is not None:
        yield "it never reads the key 'run_val_every_n_steps', but train.validate_every_steps is set"


def _name_faults(train: TrainConfig, devices: int) -> Iterator[str]:
    fits = recipe_for(devices, validation=False).name
    if train.recipe != fits:
        names = " (one device) or ".join(recipe.name for recipe in RECIPES.values() if not recipe.own)
        run = "1 device" if devices == 1 else f"{devices} devices"
        yield f"the run has {run}, expected {names} (several), or the path of a file from `tune cp`"
    elif train.validate_every_steps is not None:
        yield "torchtune's own recipe does not validate, but train.validate_every_steps is set"


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
