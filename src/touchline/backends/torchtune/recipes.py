"""Choice of torchtune's recipe by devices and validation.

Stock 0.6.1 never validates; the recipes that do are touchline's own, written into the run's folder. Each is the stock
recipe for as many devices, with validation and a training state within an epoch.
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
    verified: bool = True
    """Whether it was run for real, and not only read and imported."""


RECIPES: dict[tuple[bool, bool], Recipe] = {
    (False, False): Recipe(name="lora_finetune_single_device"),
    (True, False): Recipe(name="lora_finetune_distributed", verified=False),
    (False, True): Recipe(name="lora_finetune_single_device_val", own=True),
    (True, True): Recipe(name="lora_finetune_distributed_val", own=True, verified=False),
}
"""Recipes by (several devices, validation)."""


def recipe_for(devices: int, *, validation: bool) -> Recipe:
    """Return the recipe for a number of devices, with validation during the training or without."""
    return RECIPES[devices > 1, validation]


COMPONENTS = "run_components"
"""Module in the run's folder with the components of finetune.yaml: planned data, rates, records."""


def recipe_files(recipe: Recipe) -> dict[str, str]:
    """Return the files that a recipe needs in the run's folder, by name."""
    names = (COMPONENTS, recipe.name) if recipe.own else (COMPONENTS,)
    return {f"{name}.py": package_text("torchtune", f"{name}.py.txt") for name in names}
