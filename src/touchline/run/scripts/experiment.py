"""Files of the whole experiment: README.md and the manual submission script."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.markup import escape, measured, table
from touchline.core.table import section_markdown
from touchline.experiment.evaluation import BASE_CHECKPOINT, NO_OP_CHECKPOINT, asked_epochs
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, RunKind
from touchline.experiment.site import Site
from touchline.plan.sections import setting_sections
from touchline.run.scripts.folder import interpreter, template

_RUN_HEADER = ("run", "run", "model", "parent", "training", "evaluation")


def experiment_files(plan: Plan, site: Site) -> dict[str, str]:
    """Return README.md and submit_all.sh, by name."""
    return {"README.md": readme_text(plan, site), "submit_all.sh": submit_text(plan)}


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


def readme_text(plan: Plan, site: Site) -> str:
    """Return README.md of the experiment."""
    return template("README.md.j2").render(
        plan=plan,
        runs=table(_RUN_HEADER, [_row(run) for run in plan.runs]),
        settings=[section_markdown(section) for section in setting_sections(plan)],
        example=plan.runs[0].name if plan.runs else "RUN",
        trains=any(run.kind is RunKind.FINE_TUNED for run in plan.runs),
        saved=" or ".join(dict.fromkeys(_saved(run.train) for run in plan.runs if run.train is not None)) or "adapter",
        chains=any(run.link is not None for run in plan.runs),
        python=interpreter(plan, site),
    )


def _saved(train: TrainConfig) -> str:
    return "adapter" if train.saves == "adapter" else "model"


_CONTROLS = {
    ControlKind.BASE: "control: the base model, evaluated only",
    ControlKind.NO_OP: "control: the base model through an adapter that changes nothing, evaluated only",
    ControlKind.SHUFFLED: "control: trained on shuffled answers",
}


def _row(run: PlannedRun) -> tuple[str, ...]:
    levels = ", ".join(f"{level.factor} = {level.value}" for level in run.levels)
    # Plans of before do not say which control a control is.
    control = ControlKind.BASE if run.kind is RunKind.CONTROL and run.control is None else run.control
    what = levels or "fine-tuned" if control is None else _CONTROLS[control]
    cells = (
        run.name,
        what,
        run.model,
        run.link.parent if run.link is not None else "-",
        measured(run.train_seconds) if run.kind is RunKind.FINE_TUNED else "-",
        measured(run.evaluate_seconds),
    )
    return tuple(escape(cell) for cell in cells)
