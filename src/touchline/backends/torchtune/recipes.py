"""Choice of torchtune's recipe by devices and validation.

Stock 0.6.1 never validates; the recipes that do are touchline's own, written into the run's folder. Each is the stock
recipe for as many devices, with validation and a training state within an epoch. The stock recipe for several devices
needs NCCL, so several processes on a CPU take touchline's own, which validates nothing without a validation split.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchline.backends.package_files import package_text


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


COMPONENTS = "run_components"
"""Module in the run's folder with the components of finetune.yaml: planned data, rates, records."""


def recipe_files(recipe: Recipe) -> dict[str, str]:
    """Return the files that a recipe needs in the run's folder, by name."""
    names = (COMPONENTS, recipe.name) if recipe.own else (COMPONENTS,)
    return {f"{name}.py": package_text("torchtune", f"{name}.py.txt") for name in names}
