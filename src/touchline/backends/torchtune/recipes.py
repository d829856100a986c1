"""Choice of torchtune's recipe by devices and validation.

Stock 0.6.1 never validates; the recipes that do are touchline's own, written into the run's folder. Each is the stock
recipe for as many devices, with validation and a training state within an epoch. The stock recipe for several devices
needs NCCL, so several processes on a CPU take touchline's own, which validates nothing without a validation split.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchline.backends.external import RECIPE_MODULE
from touchline.backends.package_files import package_text
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
        devices: number of devices.
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
        text += ", which takes no validation loss"
    if run.train is not None and run.train.recipe is not None:
        text += ". Not shown for train.recipe: losses equal to other trainers', resuming within an epoch"
    return text


COMPONENTS = "run_components"
"""Module in the run's folder with the components of finetune.yaml: planned data, rates, records."""


def recipe_files(recipe: Recipe) -> dict[str, str]:
    """Return the files that a recipe needs in the run's folder, by name."""
    names = (COMPONENTS, recipe.name) if recipe.own else (COMPONENTS,)
    return {f"{name}.py": package_text("torchtune", f"{name}.py.txt") for name in names}
