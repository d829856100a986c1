"""Paths in the files of an experiment: relative if the target is in its folder, so that the folder can move."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import PurePath

from touchline.spec.plan import Plan


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


def relative_datasets(plan: Plan) -> Plan:
    """Return a plan of version 0.1.0, which recorded absolute paths, with relative paths to data inside the folder.

    The old root is not recorded. A dataset lies inside the folder if the path that a run was written with is relative
    and the recorded one ends with it.
    """
    known = {
        run.dataset: tidy
        for run in plan.runs
        if posixpath.isabs(run.dataset)
        and not _leaves(tidy := posixpath.normpath(run.data.path))
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
    """Return a plan whose paths are absolute, so that it can be run in another folder.

    Args:
        plan: the plan.
        root: the experiment's folder, absolute.
    """

    def place(path: str) -> str:
        return path if posixpath.isabs(path) else posixpath.normpath(str(root / path))

    return replace(
        plan,
        datasets={place(path): replace(info, path=place(info.path)) for path, info in plan.datasets.items()},
        runs=tuple(
            replace(
                run,
                dataset=place(run.dataset),
                data=replace(run.data, path=place(run.dataset)),
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
