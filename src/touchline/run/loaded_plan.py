"""A plan on disk with its folder: reading it, its lock, the selection of its runs, and the files of their folders."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from touchline.backends.external import RECIPE_MODULE
from touchline.core.errors import HostError, InputError, PlanDriftError, PolicyError, install_hint, quoted
from touchline.core.files import read_bytes, try_lock
from touchline.core.finding import Finding, Severity
from touchline.core.near import near_names
from touchline.core.table import Section
from touchline.data.machine import absent_packages
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.value_types import Site
from touchline.lint.local.run_files import LIMIT_BYTES
from touchline.plan.identity import RunMark
from touchline.plan.screen import WIDTH, screen_lines
from touchline.run.folders import ExperimentFolder
from touchline.run.scripts.folder import experiment_files, run_files


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


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPlan:
    """A plan and where it lies."""

    plan: Plan
    folder: ExperimentFolder
    changed: bool
    notes: tuple[str, ...] = ()
    """Notes for the user: files that were left as edited, folders that the plan no longer has."""
    edited: tuple[str, ...] = ()
    """Notes on those of runs, which are executed as they are."""
    findings: tuple[Finding, ...] | None = None
    """Findings that are not errors; None of a plan that was only read."""
    marks: Mapping[str, RunMark] = field(default_factory=dict)
    """How far each run is; empty for a first plan."""
    changes: tuple[str, ...] = ()
    """Settings that differ from the plan before, with their sources, and what plans as before."""

    @property
    def warnings(self) -> list[str]:
        """Return warnings and ignored errors, one line each."""
        return [
            f"{'' if each.where is None else f'{each.where}: '}{each.code} {each.message}"
            for each in self.findings or ()
            if each.severity is Severity.WARNING or each.allowed
        ]

    def screen(self, width: int = WIDTH) -> str:
        """Return the first screen, as `touchline plan` prints it."""
        return "\n".join(screen_lines(self.plan, marks=self.marks, findings=self.findings, width=width))

    def __repr__(self) -> str:
        return self.screen()

    def _repr_html_(self) -> str:
        from touchline.core.notebook import notebook_html

        screen = Section(title="", blocks=(("", self.screen()),), lines=self.notes)
        return notebook_html(f"Plan of {self.plan.experiment}", [screen], str(self.folder.plan_json))


def read_planned(source: Path) -> LoadedPlan:
    """Read the plan on disk.

    Raises:
        InputError: there is none.
    """
    folder = ExperimentFolder(source)
    return LoadedPlan(plan=folder.planned(), folder=folder, changed=False)


def read_started(source: Path) -> LoadedPlan:
    """Read the plan on disk with only the runs that its strategy has made active: those to list and to report.

    Raises:
        InputError: there is none.
    """
    folder = ExperimentFolder(source)
    return LoadedPlan(plan=folder.started_plan(), folder=folder, changed=False)


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
