"""Common needs of commands on an experiment: lock, run selection, training packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from touchline.core.errors import HostError, InputError, PolicyError, install_hint, quoted
from touchline.core.files import try_lock
from touchline.core.near import near_names
from touchline.data.machine import absent_packages
from touchline.experiment.plan import Plan, PlannedRun
from touchline.run.folders import ExperimentFolder
from touchline.run.progress import JobProgress

JobProgressCallback = Callable[[Sequence[JobProgress]], None]


@contextmanager
def experiment_lock(folder: ExperimentFolder) -> Iterator[int]:
    """Hold the experiment lock, so that two commands do not start jobs twice. Yield its descriptor.

    Programs started here can inherit the descriptor.

    Raises:
        PolicyError: another command holds it.
    """
    descriptor = try_lock(folder.lock)
    if descriptor is None:
        raise PolicyError(
            f"another touchline command is running on {str(folder.root)!r}",
            expected="wait until that command has ended",
            hint=f"touchline status {quoted(str(folder.root))}",
        )
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def selected(plan: Plan, only: str | None, whole: Plan | None = None) -> list[PlannedRun]:
    """Return the selected runs.

    Args:
        only: the run; None for all.
        whole: the plan with the runs too that its strategy has not started.

    Raises:
        InputError: there is no such run.
        PolicyError: the strategy has not started it.
    """
    if only is None:
        return list(plan.runs)
    found = plan.run(only)
    if found is None and whole is not None and whole.run(only) is not None:
        raise PolicyError(
            f"{only} is planned, but the strategy has not started it",
            expected=f"one of {', '.join(run.name for run in plan.runs) or 'no run yet'}",
            hint="touchline status shows the decisions of the strategy",
        )
    if found is None:
        raise no_such_run(only, plan if whole is None else whole)
    return [found]


def one_run(source: Path, name: str | None) -> tuple[ExperimentFolder, Plan, PlannedRun]:
    """Return the run that a command for a single run is about, with its experiment.

    Args:
        source: experiment.yaml, its folder, or the folder of the run.
        name: the run, if `source` is not its folder; may be left out where the plan has only one.

    Raises:
        InputError: there is no plan or no such run, or several and none was named.
    """
    place = source
    if name is None and source.is_dir() and not (source / "experiment.yaml").is_file():
        parent = source.resolve().parent
        if (parent / "experiment.yaml").is_file():
            place, name = parent, source.resolve().name
    folder = ExperimentFolder(place)
    plan = folder.started_plan()
    chosen = selected(plan, name, folder.planned())
    if name is None and len(chosen) > 1:
        names = ", ".join(each.name for each in chosen[:10]) + (" ..." if len(chosen) > 10 else "")
        raise InputError("no run selected", expected=f"--run with one of {names}", hint=f"--run {chosen[0].name}")
    return folder, plan, chosen[0]


def no_such_run(name: str, plan: Plan) -> InputError:
    """Return the error for an unknown run."""
    names = [run.name for run in plan.runs]
    near = near_names(name, names, most=1)
    return InputError(
        f"the plan has no run {name!r}",
        expected=f"one of {', '.join(names)}",
        hint=f"--run {near[0]}" if near else None,
    )


def require_training() -> None:
    """Require the training packages before any work.

    Raises:
        HostError: a package is not installed.
    """
    absent = absent_packages(("torch", "transformers", "peft", "inspect_ai"))
    if absent:
        raise HostError(
            f"this environment plans but cannot train: {', '.join(absent)} not installed",
            hint=install_hint("train,eval"),
        )
