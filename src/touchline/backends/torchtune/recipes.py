"""torchtune's recipe by devices and validation, and its builder of a model, by size or by dimensions.

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

from touchline.backends.external import RECIPE_MODULE, package_text
from touchline.backends.protocol import error
from touchline.core.catalog import Dimensions, ModelInfo
from touchline.core.finding import Finding
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.training import LoraConfig, TrainConfig

_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_TYPES = {"llama": "LLAMA3_2", "qwen2": "QWEN2"}
"""By `model_type` of config.json: how the checkpoint is converted."""
_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Scaling of rotary positions that torchtune has; the factor is free."""
_SIZES: dict[tuple[int, int, int, int, int, int, float, bool], str] = {
    (16, 2048, 32, 8, 8192, 128256, 32.0, True): "torchtune.models.llama3_2.lora_llama3_2_1b",
    (28, 3072, 24, 8, 8192, 128256, 32.0, True): "torchtune.models.llama3_2.lora_llama3_2_3b",
    (32, 4096, 32, 8, 14336, 128256, 8.0, False): "torchtune.models.llama3_1.lora_llama3_1_8b",
    (80, 8192, 64, 8, 28672, 128256, 8.0, False): "torchtune.models.llama3_1.lora_llama3_1_70b",
}
"""Builders of a size, by layers, width, heads, heads of keys, feed-forward width, vocabulary, scaling, tied output."""


def model_section(model: ModelInfo, lora: LoraConfig) -> dict[str, object]:
    """Return the section `model` of a config.

    Raises:
        ValueError: the model's dimensions are not known; `model_faults` says so first.
    """
    if model.dimensions is None:
        raise ValueError(f"the dimensions of {model.name} are unknown")
    return {**_builder(model, model.dimensions), **_adapter(lora)}


def model_type(model: ModelInfo) -> str:
    """Return `checkpointer.model_type`."""
    return _TYPES[model.model_type]


def _adapter(lora: LoraConfig) -> dict[str, object]:
    return {
        "lora_attn_modules": [_ATTENTION[name] for name in _ATTENTION if name in lora.target_modules],
        "apply_lora_to_mlp": _FEED_FORWARD[0] in lora.target_modules,
        "apply_lora_to_output": False,
        "lora_rank": lora.rank,
        "lora_alpha": lora.resolved_alpha,
        "lora_dropout": lora.dropout,
    }


def _builder(model: ModelInfo, found: Dimensions) -> dict[str, object]:
    factor = _factor(found)
    key = (
        *(model.num_layers, model.hidden_size, found.num_heads, found.num_kv_heads, found.intermediate_size),
        *(model.vocab_size, factor, found.tied_embeddings),
    )
    if model.model_type == "llama" and found.rope_base == 500_000 and found.norm_eps == 1e-5 and key in _SIZES:
        return {"_component_": _SIZES[key]}
    component = "qwen2.lora_qwen2" if model.model_type == "qwen2" else "llama3_2.lora_llama3_2"
    builder: dict[str, object] = {
        "_component_": f"torchtune.models.{component}",
        "vocab_size": model.vocab_size,
        "num_layers": model.num_layers,
        "num_heads": found.num_heads,
        "num_kv_heads": found.num_kv_heads,
        "embed_dim": model.hidden_size,
        "intermediate_dim": found.intermediate_size,
        "max_seq_len": model.context_length,
        "norm_eps": found.norm_eps,
        "rope_base": int(found.rope_base) if found.rope_base.is_integer() else found.rope_base,
        "tie_word_embeddings": found.tied_embeddings,
    }
    if model.model_type == "llama":
        builder["scale_factor"] = int(factor) if factor.is_integer() else factor
    return builder


def _factor(found: Dimensions) -> float:
    value = found.rope_scaling.get("factor", 1)
    return float(value) if isinstance(value, int | float) else 1.0


def model_faults(model: ModelInfo, train: TrainConfig) -> Iterator[Finding]:
    """Yield an error for each thing of a model or adapter that torchtune's builders do not have."""
    found = model.dimensions
    if model.model_type not in _TYPES:
        known = " and ".join(_TYPES)
        yield _error("models", f"{model.name} is a {model.model_type or 'model of unknown type'}, expected {known}")
    elif found is None and "config.json" not in model.absent:
        yield _error("models", f"config.json of {model.name} lacks dimensions that the model's builder needs")
    elif found is not None:
        yield from (_error("models", f"{model.name}: {reason}") for reason in _unlike(model, found))
    targets = set(train.lora.target_modules)
    unknown = sorted(targets - _ATTENTION.keys() - set(_FEED_FORWARD))
    if unknown:
        yield _error("train.lora.target_modules", f"an adapter on {unknown[0]} is not saved in PEFT's form")
    if not targets & _ATTENTION.keys():
        yield _error("train.lora.target_modules", "an adapter without an attention layer cannot be built")
    some = sorted(targets & set(_FEED_FORWARD))
    if some and len(some) < len(_FEED_FORWARD):
        yield _error(
            "train.lora.target_modules",
            f"an adapter on {', '.join(some)} alone cannot be built, expected {', '.join(_FEED_FORWARD)}, or none",
        )
    if "auto" not in (train.base_dtype, train.lora.dtype) and train.base_dtype != train.lora.dtype:
        yield _error(
            "train.lora.dtype",
            f"base and adapter have one dtype: base_dtype {train.base_dtype}, lora.dtype {train.lora.dtype}",
            f"lora.dtype: {train.base_dtype}",
        )


def _unlike(model: ModelInfo, found: Dimensions) -> Iterator[str]:
    if found.head_dim * found.num_heads != model.hidden_size:
        yield f"heads of {found.head_dim} x {found.num_heads} are not the width {model.hidden_size}"
    if found.biased:
        yield "layers with a bias cannot be built"
    if found.windowed:
        yield "attention within a window cannot be built"
    scaling = found.rope_scaling
    kind = scaling.get("rope_type", scaling.get("type"))
    if scaling and model.model_type == "qwen2":
        yield f"scaled rotary positions ({kind}) cannot be built"
    elif scaling and (kind != "llama3" or any(scaling.get(key) != value for key, value in _SCALING.items())):
        yield f"rotary positions scaled as {kind} with these factors cannot be built"


def _error(subject: str, message: str, hint: str = "backend: peft") -> Finding:
    return error(subject, f"the backend torchtune: {message}", hint)


VALIDATION_KEYS = ("dataset_val", "run_val_every_n_steps")
"""Keys of finetune.yaml on validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Recipe that `tune run` takes."""

    name: str
    own: bool = False


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
