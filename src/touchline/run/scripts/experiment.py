"""Files of the whole experiment: README.md and the manual submission script."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.experiment.evaluation import BASE_CHECKPOINT, NO_OP_CHECKPOINT, asked_epochs
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.run.scripts.folder import template


def experiment_files(plan: Plan) -> dict[str, str]:
    """Return README.md and submit_all.sh, by name."""
    return {"README.md": readme_text(plan), "submit_all.sh": submit_text(plan)}


def submit_text(plan: Plan) -> str:
    """Return submit_all.sh: every training after its parent, then the evaluations."""
    return template("submit_all.sh.j2").render(
        plan=plan,
        trained=parents_first([run for run in plan.runs if run.kind is RunKind.FINE_TUNED]),
        checkpoints={run.name: wanted_checkpoints(run) for run in plan.runs},
    )


def wanted_checkpoints(run: PlannedRun) -> list[str]:
    """Return the names of the checkpoints requested by `evaluate.epochs`, whether they exist or not."""
    if run.train is None:
        return [BASE_CHECKPOINT if run.no_op is None else NO_OP_CHECKPOINT]
    return [f"epoch_{epoch}" for epoch in asked_epochs(run.evaluate.epochs, run.train.epochs)]


def parents_first(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs in plan order, each after its parent; cycles are left out."""
    names = {run.name for run in runs}
    waiting, done, order = list(runs), set[str](), list[PlannedRun]()
    while waiting:
        ready = [run for run in waiting if run.link is None or run.link.parent in done or run.link.parent not in names]
        if not ready:
            return order
        order += ready
        done |= {run.name for run in ready}
        waiting = [run for run in waiting if run.name not in done]
    return order


def readme_text(plan: Plan) -> str:
    """Return README.md of the experiment."""
    verb = "run" if plan.executor == "local" else "submit"
    return template("README.md.j2").render(plan=plan, verb=verb)
