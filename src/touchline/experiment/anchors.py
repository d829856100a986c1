"""Paths in the files of an experiment: relative if the target is in its folder, so that the folder can move."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath

from touchline.core.catalog import DatasetInfo
from touchline.experiment.data_config import DataConfig
from touchline.experiment.plan import Plan, PlannedRun


def portable_path(written: str, found: str, root: PurePath) -> str:
    """Return the path to record for a file that experiment.yaml names.

    Args:
        written: the path as experiment.yaml has it.
        found: the absolute path of the file, links resolved.
        root: the experiment's folder, absolute.

    Returns:
        A path relative to `root` if the file was written as one below it, or lies below it; otherwise `found`.
    """
    tidy = posixpath.normpath(written)
    if not _leaves(tidy):
        return tidy
    inside = PurePath(found)
    return inside.relative_to(root).as_posix() if inside.is_relative_to(root) else found


def from_run_folder(path: str) -> str:
    """Return a path relative to the experiment's folder as seen from a run's folder; absolute paths stay."""
    return path if posixpath.isabs(path) else f"../{path}"


def placed_data(run: PlannedRun, place: Callable[[str], str]) -> DataConfig:
    """Return a run's data with `place` of each file's path in the plan."""
    if run.data.path is not None:
        # As it was written; the plan has its place in `dataset`.
        return replace(run.data, path=place(run.dataset))
    return run.data.with_files(place)


def _placed(info: DatasetInfo, place: Callable[[str], str]) -> DatasetInfo:
    files = tuple(replace(file, path=place(file.path)) for file in info.files)
    return replace(info, path=place(info.path), files=files)


def portable_dataset(data: DataConfig, found: DatasetInfo, root: PurePath) -> DatasetInfo:
    """Return a dataset with the paths to record: `portable_path` of each file.

    Args:
        found: the dataset, with absolute paths.
        root: the experiment's folder, absolute.
    """
    files = tuple(replace(file, path=portable_path(data.files[file.key], file.path, root)) for file in found.files)
    return replace(found, path=portable_path(data.file, found.path, root), files=files)


def recorded_data(data: DataConfig, dataset: DatasetInfo) -> DataConfig:
    """Return data settings with the paths that a plan records; of a dataset in one file as it was written."""
    paths = {data.files[file.key]: file.path for file in dataset.files}
    return data.with_files(lambda file: paths.get(file, file))


def drop_unset_files(data: dict[str, object]) -> None:
    """Take the keys of files that are not set out of plain data settings, and those of a split that is not made."""
    for key in ("path", "train", "validation", "test"):
        if data.get(key) is None:
            data.pop(key, None)
    for key in ("train_fraction", "split_seed") if "train" in data else ():
        data.pop(key, None)


def relative_datasets(plan: Plan) -> Plan:
    """Return a plan of version 0.1.0, which recorded absolute paths, with relative paths to data inside the folder.

    The old root is not recorded. A dataset lies inside the folder if the path that a run was written with is relative
    and the recorded one ends with it.
    """
    known = {
        run.dataset: tidy
        for run in plan.runs
        if posixpath.isabs(run.dataset)
        and not _leaves(tidy := posixpath.normpath(run.data.file))
        and run.dataset.endswith(f"/{tidy}")
    }
    if not known:
        return plan
    return replace(
        plan,
        datasets={
            known.get(path, path): replace(info, path=known.get(path, path)) for path, info in plan.datasets.items()
        },
        runs=tuple(replace(run, dataset=known.get(run.dataset, run.dataset)) for run in plan.runs),
    )


def anchored(plan: Plan, root: PurePath) -> Plan:
    """Return a plan whose paths are absolute, so that it can be run in another folder."""

    def place(path: str) -> str:
        return path if posixpath.isabs(path) else posixpath.normpath(str(root / path))

    return replace(
        plan,
        datasets={place(path): _placed(info, place) for path, info in plan.datasets.items()},
        runs=tuple(
            replace(
                run,
                dataset=place(run.dataset),
                data=placed_data(run, place),
                recipe=None if run.recipe is None else replace(run.recipe, path=place(run.recipe.path)),
            )
            for run in plan.runs
        ),
        labels=tuple(replace(each, dataset=place(each.dataset)) for each in plan.labels),
        tasks=tuple(
            replace(
                task,
                file=None if task.file is None else place(task.file),
                modules={place(path): sha256 for path, sha256 in task.modules.items()},
            )
            for task in plan.tasks
        ),
    )


def _leaves(tidy: str) -> bool:
    return posixpath.isabs(tidy) or tidy.startswith("~") or tidy.split("/")[0] == ".."
