"""Verbs before the first job: checks, the plan and its approval."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import MessageCallback, NamedProgressCallback, ProgressCallback, ignore_message
from touchline.data.user_config import UserConfig
from touchline.experiment.recorded import compare_with_plan
from touchline.experiment.requests import CheckRequest
from touchline.plan.identity import RunMark
from touchline.results.strategy import is_unfinished
from touchline.run.budget import Approval, Budget, read_budget
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan, read_planned
from touchline.run.plan_checks import downloads, refuse_absent, refuse_other_shapes
from touchline.run.planning import commit_plan, decided_on_disk, refuse_drift, resolve
from touchline.run.recorded import (
    change_lines,
    choose_overrides,
    explained_drift,
    plan_command,
    read_file,
    recorded_lines,
)

if TYPE_CHECKING:
    from touchline.core.finding import Finding
    from touchline.experiment.plan import Plan
    from touchline.experiment.requests import CheckRequest
    from touchline.lint.check import CheckReport
    from touchline.lint.local.programs import Changes
    from touchline.run.budget import Approval, Budget


def check(
    paths: Sequence[Path],
    settings: UserConfig,
    request: CheckRequest | None = None,
    on_message: MessageCallback = ignore_message,
    on_progress: NamedProgressCallback | None = None,
) -> tuple[CheckReport, list[Finding]]:
    """Check experiments, configs, scripts and data; report all findings at once.

    Args:
        request: the target machine and the selected rules (default: this machine, all rules).
        on_message: receives a line before the code of a task file runs; only files named in `paths` are run. Receives
            how the file of an experiment differs from its plan on disk.
        on_progress: receives the number of checked files, of all, and the next one.

    Returns:
        The report, and the findings with their fixes.

    Raises:
        InputError: a path does not exist, or an option is wrong.
    """
    from touchline.lint.local.checking import check_paths

    found = check_paths(paths, settings, request or CheckRequest(), decided_on_disk, on_message, on_progress)
    for folder in (ExperimentFolder(path) for path in paths if (path / "experiment.yaml").is_file()):
        if (planned := folder.read_plan()) is not None:
            for line in recorded_lines(folder, planned):
                on_message(line)
    return found


def check_fix(
    paths: Sequence[Path],
    settings: UserConfig,
    request: CheckRequest,
    on_message: MessageCallback = ignore_message,
    *,
    write: bool,
) -> Changes:
    """Apply the fixes that are safe, or only return them as a diff.

    Raises:
        InputError: a path does not exist, or an option is wrong.
        HostError: a file may not be written.
    """
    from touchline.lint.local.checking import check_paths
    from touchline.lint.local.programs import fix

    return fix(check_paths(paths, settings, request, decided_on_disk, on_message)[1], write=write)


def plan(
    source: Path,
    settings: UserConfig,
    overrides: Sequence[str] = (),
    *,
    allow: Sequence[str] = (),
    accept: bool = False,
    dry_run: bool = False,
    on_progress: ProgressCallback | None = None,
    measure: Callable[[Plan, ExperimentFolder], bool] | None = None,
) -> LoadedPlan:
    """Resolve an experiment and write its plan.

    Args:
        overrides: dotted `key=value`, for this plan alone.
        allow: codes of errors to ignore, apart from those that the file ignores.
        accept: re-plan started runs too; their results are moved to superseded/.
        dry_run: write nothing; a note says why writing would be refused.
        on_progress: receives the number of tokenized examples and their total, if lengths are unknown.
        measure: receives the plan before it is written and measures unknown values. True means "plan again".

    Raises:
        InputError: the file, a model or the data have errors; all are listed.
        PlanDriftError: the plan would change a started run.
    """
    folder = ExperimentFolder(source)
    old = folder.read_plan()
    loaded = read_file(folder, overrides)
    if allow:
        codes = ", ".join(dict.fromkeys([*loaded.experiment.allow, *allow]))
        others = (override for override in overrides if not override.startswith("allow="))
        loaded = read_file(folder, (*others, f"allow=[{codes}]"))
    changes = None if old is None else compare_with_plan(loaded, old)
    with explained_drift(folder, changes):
        new, notes = resolve(loaded, folder, settings, old, on_progress)
        if measure is not None and not any(model.absent for model in new.models.values()):
            # Nothing is measured for a plan that is refused.
            refuse_drift(folder, old, new, accept=accept)
            if measure(new, folder):
                new, notes = resolve(loaded, folder, settings, old, on_progress)
        planned = commit_plan(folder, old, new, accept=accept, dry_run=dry_run, notes=notes)
    return replace(planned, changes=tuple(change_lines(folder, changes)))


def plan_to_run(
    source: Path,
    settings: UserConfig,
    overrides: Sequence[str] = (),
    *,
    allow: Sequence[str] = (),
    measure: Callable[[Plan, ExperimentFolder], bool] | None = None,
) -> LoadedPlan:
    """Write the plan that is run next: without overrides, those of the plan on disk are kept while it is unfinished.

    Raises:
        InputError: the file, a model or the data have errors; all are listed.
        PlanDriftError: the plan would change a started run, or lose an override that the user has not given up.
    """
    folder = ExperimentFolder(source)
    chosen = choose_overrides(folder, overrides, lambda: is_unfinished(read_planned(source)))
    if (old := folder.read_plan()) is not None:
        refuse_other_shapes(folder, old, settings)
    return plan(source, settings, chosen, allow=allow, measure=measure)


def next_command(planned: LoadedPlan, source: Path, *, dry_run: bool = False) -> str:
    """Return what to type after a plan: a download, the plan itself after a dry run, the next runs, or the report."""
    plan_, where = planned.plan, shlex.quote(str(source))
    if absent := downloads(plan_):
        return absent
    if dry_run and plan_.overrides:
        return plan_command(planned.folder, plan_.overrides)
    is_done = all(mark is RunMark.DONE for mark in planned.marks.values())
    if planned.marks and (is_done if plan_.strategy is None else not is_unfinished(planned)):
        return f"touchline report {where}"
    return f"touchline {'run' if plan_.executor == 'local' else 'submit'} {where}"


def approve(source: Path, device_hours: float) -> Approval:
    """Approve the plan on disk for agents, with a budget of device-hours from now on; replaces an earlier approval.

    Raises:
        InputError: there is no plan, or the hours are not a positive number.
        HostError: a model of the plan is not here.
    """
    from touchline.run import budget

    folder = ExperimentFolder(source)
    refuse_absent(folder.planned(), folder)
    return budget.approve(folder, device_hours)


def approved_budget(source: Path) -> Budget:
    """Return whether the plan on disk is approved for agents, and the hours used, reserved and left."""
    return read_budget(ExperimentFolder(source))
