"""Writing of run folders and experiment-level scripts."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from touchline.backends.external import RECIPE_MODULE
from touchline.core.errors import PlanDriftError, quoted
from touchline.core.files import read_bytes
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import PlannedRun
from touchline.experiment.site import Site
from touchline.lint.local.recipes import LIMIT_BYTES
from touchline.run.planning import LoadedPlan
from touchline.run.scripts.experiment import experiment_files
from touchline.run.scripts.folder import run_files


def site_of(settings: UserConfig) -> Site:
    """Return the host settings of scripts from the user config and this interpreter."""
    return Site(
        python=sys.executable,
        slurm=settings.slurm,
        cache_dir=str(settings.cache_dir),
        models_dir=str(settings.models_dir),
    )


def recipe_files(run: PlannedRun, root: Path) -> dict[str, str]:
    """Return the copy of the recipe that `train.recipe` names by a path, by its name in the run's folder.

    Raises:
        PlanDriftError: it changed since it was planned.
    """
    if run.recipe is None:
        return {}
    path = root / run.recipe.path
    data = read_bytes(path, LIMIT_BYTES) if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != run.recipe.sha256:
        raise PlanDriftError(
            f"the recipe {run.recipe.path!r} changed since planning",
            expected="the planned content",
            hint=f"touchline plan {quoted(str(root))}",
        )
    return {f"{RECIPE_MODULE}.py": data.decode()}


def write_folders(planned: LoadedPlan, runs: Sequence[PlannedRun], settings: UserConfig) -> tuple[list[str], list[str]]:
    """Write the files of these runs and of the experiment. Return a note for each file kept as edited, of runs first.

    Raises:
        PlanDriftError: a generated-only file was changed by hand.
        SlurmValueError: a setting is not valid on an #SBATCH line.
    """
    site = site_of(settings)
    folder = planned.folder
    notes: list[str] = []
    for run in runs:
        kept = folder.write_run(run.name, run_files(planned.plan, run, site) | recipe_files(run, folder.root))
        notes += [f"{run.name}/{file} was changed by hand and is not overwritten" for file in kept]
    kept = folder.write_experiment(experiment_files(folder.started_plan()))
    return notes, [f"{file} differs from what touchline would write, and is not overwritten" for file in kept]
