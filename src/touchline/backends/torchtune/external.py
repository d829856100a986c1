"""torchtune 0.6.1 as a program: `tune run` of an environment of its own."""

from __future__ import annotations

from touchline.backends.external import Environment, ExternalTrainer, Launch
from touchline.backends.torchtune.recipes import RECIPES, recipe_for

ENVIRONMENT = Environment(
    name="torchtune",
    python_variable="TOUCHLINE_TORCHTUNE_PYTHON",
    program="tune",
    # torchtune does not import beside newer versions of torchao, which it does not ask for either.
    packages=("torch==2.13.0", "torchtune==0.6.1", "torchao==0.15.0", "torchdata==0.11.0"),
    note="torchtune is no longer maintained (since July 2025)",
)


class TorchtuneTrainer:
    """`tune run` of the planned recipe: one in a file of the run's folder, or the stock one for the devices."""

    environment = ENVIRONMENT

    def command(self, launch: Launch) -> tuple[str, ...]:
        """Return the command of an attempt; a state of an earlier one is given as overrides of the config."""
        own = (recipe for recipe in RECIPES.values() if recipe.own and recipe.name in launch.modules)
        recipe = launch.recipe or (next(own, None) or recipe_for(launch.devices, validation=False)).name
        processes = ("--nproc_per_node", str(launch.devices)) if launch.devices > 1 else ()
        resumes = (
            ()
            if launch.state is None
            else (
                "resume_from_checkpoint=True",
                f"checkpointer.adapter_checkpoint={launch.state}/adapter_model.pt",
                f"checkpointer.recipe_checkpoint={launch.state}/recipe_state.pt",
            )
        )
        moved = () if launch.model is None else (f"checkpointer.checkpoint_dir={launch.model}",)
        return (launch.program, "run", *processes, recipe, "--config", "finetune.yaml", *moved, *resumes)


TRAINER: ExternalTrainer = TorchtuneTrainer()
