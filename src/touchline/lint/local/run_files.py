"""Files of a run on this machine: the place of its dataset in experiment.yaml, and recipes, which are not executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.backends.protocol import unsupported
from touchline.backends.registry import capabilities, recipe_faults, recipe_keys
from touchline.core.catalog import DatasetInfo
from touchline.core.errors import InputError
from touchline.core.files import read_text_bounded, sha256_file
from touchline.core.finding import Finding, Location
from touchline.core.levels import STAGE
from touchline.core.near import near_names
from touchline.data.data_files import WITHOUT_TEST
from touchline.data.task_files import local_modules, parsed_file
from touchline.experiment.anchors import portable_path
from touchline.experiment.document import error
from touchline.experiment.plan import RecipeFile
from touchline.experiment.read import LoadedExperiment
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.stages import stage_places
from touchline.experiment.training import TrainConfig


def place_of_data(spec: RunSpec, loaded: LoadedExperiment) -> Location:
    """Return the location of a run's dataset."""
    stage = next((level.value for level in spec.levels if level.factor == STAGE), None)
    own = {} if stage is None else stage_places(loaded.document, stage)
    key = spec.data.file_key
    return loaded.document.where(own.get(key, key.split(".")))


def findings_of_files(
    info: DatasetInfo, first: Mapping[str, str], users: Sequence[RunSpec], loaded: LoadedExperiment
) -> Iterator[Finding]:
    """Yield the findings of a dataset. That it has no test rows is one only for runs that are evaluated.

    Args:
        first: `DataConfig.files` of the first runs with its training file; that file names the dataset.
    """
    place = place_of_data(users[0], loaded)
    evaluated = [spec for spec in users if spec.kind is RunKind.CONTROL or spec.evaluate.epochs != ()]
    for finding in info.findings:
        if finding.subject != WITHOUT_TEST:
            yield finding
        elif evaluated:
            yield replace(finding, where=place)
    files = users[0].data.files
    if list(files.items()) != list(first.items()):
        key = next(key for key in (*first, *files) if first.get(key) != files.get(key))
        one, other = (each.get(key, "no file") for each in (first, files))
        message = f"{users[0].data.file} is used with {one} and with {other} as {key}"
        hint = "make one experiment for each, or copy the training file under another name"
        yield error("EX003", key, message, place, hint)


LIMIT_BYTES = 1 << 20


def read_recipe(
    train: TrainConfig, root: Path, dataset: DatasetInfo | None, devices: int
) -> tuple[RecipeFile | None, list[Finding]]:
    """Return the recipe of a training if it is a file, and what forbids a training by it.

    Raises:
        InputError: the file is not there, or no Python.
    """
    able = capabilities().get(train.backend)
    if train.recipe is None or able is None or not able.recipes:
        # Other trainers refuse the key.
        return None, []
    path = None if train.recipe_path is None else (root / Path(train.recipe_path).expanduser()).resolve()
    tree = None if path is None else _parsed(path)
    splits = () if dataset is None else dataset.splits
    validates = any(split.name == "validation" and split.num_examples for split in splits)
    faults = recipe_faults(train, tree, devices, validates=validates)
    findings = [unsupported(train.backend, "recipe", f"recipe {train.recipe}: {fault}", None) for fault in faults]
    if path is None or tree is None:
        return None, findings
    recipe = RecipeFile(
        path=portable_path(train.recipe, str(path), root.resolve()),
        sha256=sha256_file(path),
        lines=len(read_text_bounded(path, LIMIT_BYTES).splitlines()),
        keys=recipe_keys(train.backend, tree),
    )
    return recipe, findings


def _parsed(path: Path) -> ast.Module:
    if not path.is_file() or path.suffix != ".py":
        near = near_names(path.name, [each.name for each in path.parent.glob("*.py")], most=1)
        raise InputError(
            f"train.recipe: {str(path)!r} is not an existing Python file",
            expected="a recipe, relative to experiment.yaml",
            hint=f"recipe: {near[0]}" if near else None,
        )
    tree = parsed_file(path, read_text_bounded(path, LIMIT_BYTES), "a recipe in Python")
    if modules := local_modules(path, tree):
        raise InputError(
            f"train.recipe: {str(path)!r} imports {', '.join(module.name for module in modules)} from its own folder",
            expected="one file, which is copied into each run's folder, or a package that its environment has",
        )
    return tree
