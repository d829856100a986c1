"""Folder in which a run is trained again: the saved plan with this run and its parents, and nothing of its results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from touchline.core.errors import InputError, PolicyError, quoted
from touchline.core.files import read_text_bounded, sha256_file, write_if_changed
from touchline.data.models import load_model, locate_model
from touchline.data.user_config import UserConfig
from touchline.experiment.anchors import anchored
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.identity import plan_to_json
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan, read_planned

REPRODUCED = "reproduced"
"""Default folder of reproductions in the experiment."""
_PLAN_LIMIT_BYTES = 256 << 20


def chain_of(plan: Plan, run: PlannedRun) -> list[PlannedRun]:
    """Return a run with the parents that it continues from, the first one first."""
    found = [run]
    while (link := found[0].link) is not None and (parent := plan.run(link.parent)) is not None:
        found.insert(0, parent)
    return found


def changed_inputs(
    plan: Plan, run: PlannedRun, folder: ExperimentFolder, settings: UserConfig
) -> Iterator[tuple[str, str, str]]:
    """Yield the inputs of a run with another content than planned: what it is, planned hash, hash now.

    Raises:
        InputError: an input is not on this machine.
    """
    for each in chain_of(plan, run):
        data, model = plan.datasets[each.dataset], plan.models[each.model]
        for file in data.all_files:
            path = folder.root / file.path
            if not path.is_file():
                raise InputError(
                    f"the dataset {str(path)!r} of {each.name} does not exist", expected="the file that was planned"
                )
            if (now := sha256_file(path)) != file.sha256:
                yield f"dataset {path.name}", file.sha256, now
        place = locate_model(model.path, str(model.weights_sha256))
        here = load_model(place if Path(place).is_dir() else model.name, settings.models_dir)
        for what, planned, found in (
            ("weights", model.weights_sha256, here.weights_sha256),
            ("config.json", model.config_sha256, here.config_sha256),
            ("tokenizer", model.tokenizer_sha256, here.tokenizer_sha256),
        ):
            if planned != found:
                yield f"{what} of {model.name}", str(planned), str(found)
        if each.recipe is not None:
            path = folder.root / each.recipe.path
            if (now := sha256_file(path) if path.is_file() else "missing") != each.recipe.sha256:
                yield f"recipe {path.name}", each.recipe.sha256, now
    for task in plan.tasks:
        files = ({} if task.file is None else {task.file: task.sha256}) | task.modules
        for name, expected in files.items():
            path = folder.root / name
            found = sha256_file(path) if path.is_file() else "missing"
            if expected is not None and found != expected:
                yield f"task file {path.name}", expected, found


def write_reproduction(folder: ExperimentFolder, plan: Plan, run: PlannedRun, target: Path) -> LoadedPlan:
    """Write the folder of a reproduction, or return the one that an earlier call wrote.

    Its plan is the saved one with this run and its parents alone, every path absolute, and without cohorts: the run is
    trained alone.

    Raises:
        PolicyError: the folder holds something else.
    """
    alone = replace(plan, runs=tuple(chain_of(plan, run)), cohorts=(), alone=(), strategy=None)
    wanted = anchored(alone, folder.root)
    text = plan_to_json(wanted)
    if target.resolve() == folder.root or target.resolve().is_relative_to(folder.run(run.name).resolve()):
        raise PolicyError(f"{str(target)!r} contains the original run", expected="another folder")
    plan_json = target / "plan.json"
    other = target.is_dir() and any(target.iterdir())
    if other and not (plan_json.is_file() and read_text_bounded(plan_json, _PLAN_LIMIT_BYTES) == text):
        raise PolicyError(
            f"{str(target)!r} contains something other than a reproduction of {run.name} with this plan",
            expected="a new folder, or that of an earlier call",
            hint=f"move it away, or: touchline reproduce {quoted(str(folder.root))} --run {run.name} --out DIR",
        )
    header = f"# Copy for the reproduction of {run.name}. plan.json next to it is what is run.\n"
    write_if_changed(target / "experiment.yaml", header + read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES))
    write_if_changed(plan_json, text)
    return read_planned(target)
