"""Models that were planned before they were here: what waits for them, and what their arrival changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from touchline.core.catalog import ModelInfo
from touchline.core.errors import HostError, PlanDriftError
from touchline.core.finding import Severity
from touchline.data.planned_models import load_planned_model, other_shape
from touchline.data.public import how_to_get
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.run.folders import ExperimentFolder
from touchline.run.planning import LoadedPlan, commit_plan, resolve
from touchline.run.recorded import plan_command, read_recorded


def downloads(plan: Plan) -> str:
    """Return the commands that download the models of a plan that were not all here; empty if all were."""
    absent = (model for model in plan.models.values() if model.absent)
    return "; ".join(how_to_get(model.name, Path(model.path).parent) for model in absent)


def refuse_absent(plan: Plan, folder: ExperimentFolder) -> None:
    """Refuse to start runs, or to write their files, before the models of their plan are here.

    These files hold the hashes of weights and tokenizer, by which a job refuses others.

    Raises:
        HostError: a part of a model was not here; with the command that downloads it.
    """
    absent = [model for model in plan.models.values() if model.absent]
    if not absent:
        return
    again = "then rerun this command"
    if any("tokenizer" in model.absent for model in absent):
        again = f"then `{plan_command(folder, plan.overrides)}` to count the tokens again, then rerun this command"
    raise HostError(
        f"planned without its files: {', '.join(_parts(model) for model in absent)}",
        expected="complete models, because run files contain the hashes of weights and tokenizers",
        hint=f"{downloads(plan)}, {again}",
    )


def refuse_other_shapes(folder: ExperimentFolder, plan: Plan, settings: UserConfig) -> None:
    """Refuse models that have another shape than was planned before they were here.

    Raises:
        PlanDriftError: one has.
    """
    others = [
        f"{planned.name}: {differs}"
        for planned, now in _now(plan, settings)
        # Planning reports a folder with errors, such as half of the weights.
        if not any(each.severity is Severity.ERROR for each in now.findings)
        and (differs := other_shape(planned, now)) is not None
    ]
    if others:
        raise PlanDriftError(
            f"a model has a different shape than planned: {', '.join(others)}",
            expected="the model that was planned",
            hint=f"restore the planned model, or plan this one: {plan_command(folder, plan.overrides)}",
        )


def with_arrivals(planned: LoadedPlan, settings: UserConfig) -> LoadedPlan:
    """Return a plan with the weights that were not here when it was made, as a recorded revision.

    Raises:
        HostError: a part of a model is still not here.
        PlanDriftError: weights have another shape than planned, or a tokenizer is here that did not count the tokens.
    """
    folder, old = planned.folder, planned.plan
    arrived = {now.name: now for _, now in _now(old, settings)}
    if not arrived:
        return planned
    refuse_other_shapes(folder, old, settings)
    counted = [name for name, now in arrived.items() if "tokenizer" in old.models[name].absent and not now.absent]
    if counted:
        raise PlanDriftError(
            f"the tokenizer of {' and '.join(counted)} is here now, but the plan's token counts are not from it",
            expected="a plan with the models' own tokenizers",
            hint=plan_command(folder, old.overrides),
        )
    accepted = {run.name: run.accepted for run in old.runs if run.accepted}
    new, notes = resolve(read_recorded(folder, old), folder, settings, old, accepted)
    refuse_absent(new, folder)
    return commit_plan(folder, old, new, accept=False, dry_run=False, notes=notes)


def _parts(model: ModelInfo) -> str:
    return f"{', '.join(model.absent)} of {model.name}"


def _now(plan: Plan, settings: UserConfig) -> Iterator[tuple[ModelInfo, ModelInfo]]:
    """Yield each model that was not all here when it was planned, as planned and as it is now."""
    for model in plan.models.values():
        if model.absent:
            here = model.path if Path(model.path).is_dir() else model.name
            yield model, load_planned_model(here, settings.models_dir)
