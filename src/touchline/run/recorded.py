"""experiment.yaml and the plan on disk: which of them a command follows where they differ.

An override belongs to the plan that it was given to. `plan` follows the file and what it is given; `run` keeps the
overrides of a plan with unfinished runs; all others follow the plan. Each refuses what the user has not chosen.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from touchline.core.errors import InputError, PlanDriftError
from touchline.core.files import FileCache, read_text_bounded
from touchline.core.near import drop_removed
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES, parse
from touchline.experiment.plan import Plan
from touchline.experiment.read import LoadedExperiment, read_experiment
from touchline.experiment.recorded import FileChanges, compare_with_plan, is_as_planned, override_lines
from touchline.run.folders import ExperimentFolder


def plan_command(folder: ExperimentFolder, overrides: Sequence[str] = (), *options: str) -> str:
    """Return the command that plans an experiment."""
    return shlex.join(["touchline", "plan", str(folder.root), *overrides, *options])


def read_file(folder: ExperimentFolder, overrides: Sequence[str] = ()) -> LoadedExperiment:
    """Read experiment.yaml with overrides.

    Raises:
        InputError: the file or an override has errors.
    """
    return read_experiment(read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES), str(folder.yaml), overrides)


def file_changes(folder: ExperimentFolder, plan: Plan) -> FileChanges | None:
    """Return how an edited file differs from the plan on disk. None if the plan is still that of the file.

    Raises:
        InputError: the file has errors.
    """
    if is_as_planned(definition_text(folder.yaml), str(folder.yaml), plan):
        return None
    found = compare_with_plan(read_file(folder), plan)
    return found if found.any else None


definition_text = FileCache(lambda path: read_text_bounded(path, SIZE_LIMIT_BYTES), 4 * SIZE_LIMIT_BYTES)
"""Text of an experiment.yaml, read once while it is unchanged."""


def removed_lines(folder: ExperimentFolder) -> Iterator[str]:
    """Yield the line that names what experiment.yaml sets and this version no longer shows; none without such keys."""
    try:
        data = parse(definition_text(folder.yaml), str(folder.yaml)).data
    except InputError:
        return
    if found := drop_removed(data):
        yield f"not shown: {', '.join(map(str, found))}"


def recorded_lines(folder: ExperimentFolder, plan: Plan) -> Iterator[str]:
    """Yield a line that names the overrides of the plan on disk, one if the file was edited since, and one of its keys
    that were removed.
    """
    yield from override_lines(plan)
    yield from removed_lines(folder)
    try:
        found = file_changes(folder, plan)
    except InputError as error:
        yield f"experiment.yaml was edited since this plan, and has errors: {error.message}"
        return
    if found is not None:
        yield f"experiment.yaml was edited since this plan: {found.text} (plan the file: `{plan_command(folder)}`)"


def read_recorded(folder: ExperimentFolder, plan: Plan) -> LoadedExperiment:
    """Read experiment.yaml with the overrides of the plan on disk.

    Raises:
        PlanDriftError: the file was edited, so that it is another experiment than the plan.
    """
    if (found := file_changes(folder, plan)) is not None:
        raise _not_chosen(folder, found)
    return read_file(folder, plan.overrides)


def refuse_other_machine(folder: ExperimentFolder, plan: Plan, settings: UserConfig) -> None:
    """Refuse a plan that an earlier version made for the CPU of a login node.

    Raises:
        InputError: the plan's jobs run on a cluster, and nothing says which GPU its nodes have.
    """
    if plan.executor != "local" and plan.machine.kind == "cpu" and plan.compute.gpus:
        from touchline.plan.local.target import resolve_target

        resolve_target(plan.compute, settings.slurm)
        raise PlanDriftError(
            "the plan is for the CPU of the planning machine, but its jobs request a GPU",
            expected="a plan for the GPU of the nodes",
            hint=plan_command(folder, plan.overrides),
        )


def choose_overrides(
    folder: ExperimentFolder, given: Sequence[str], is_unfinished: Callable[[], bool]
) -> tuple[str, ...]:
    """Return the overrides that `run` plans with: those given, else those of a plan on disk with unfinished runs.

    Raises:
        PlanDriftError: an override of an unfinished plan would be lost, and the user has not chosen that.
    """
    old = folder.read_plan()
    if old is None or not old.overrides:
        return tuple(given)
    text = read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES)
    if not given and is_as_planned(text, str(folder.yaml), old):
        return old.overrides if is_unfinished() else ()
    found = compare_with_plan(read_file(folder, given), old)
    if (found.dropped or not found.is_complete) and is_unfinished():
        raise _not_chosen(folder, found, given)
    return tuple(given)


def change_lines(folder: ExperimentFolder, found: FileChanges | None) -> Iterator[str]:
    """Yield the line that names the settings of a new plan that are not those of the plan before."""
    if found is not None and found.differences:
        yield f"since the last plan: {found.text} (to plan as before: `{plan_command(folder, found.restoring)}`)"


@contextmanager
def explained_drift(folder: ExperimentFolder, found: FileChanges | None) -> Iterator[None]:
    """Add to a refused plan which settings differ from the plan on disk, and the command that plans as before."""
    try:
        yield
    except PlanDriftError as error:
        for line in change_lines(folder, found):
            error.message += f" ({line})"
        raise


def _not_chosen(folder: ExperimentFolder, found: FileChanges, given: Sequence[str] = ()) -> PlanDriftError:
    """Return the error for a file and a plan that differ, with the command for either."""
    file = f"the file{' with the overrides given' if given else ''}"
    recorded = "the recorded plan" if found.is_complete else "the file with the recorded overrides"
    again = f"rerun this command{' without overrides' if given else ''}"
    choices = ((given, file), (found.restoring, recorded))
    return PlanDriftError(
        f"{str(folder.yaml)!r} and the recorded plan differ: {found.text}",
        expected="one of the two",
        hint=f"{' or '.join((f'`{plan_command(folder, own)}` plans {which}' for own, which in choices))}, then {again}",
    )
