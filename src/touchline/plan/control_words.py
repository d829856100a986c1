"""What the plan says of controls, and of the harness that looks at general ability."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.spec.experiment import GeneralConfig
from touchline.spec.plan import Plan, PlannedRun
from touchline.spec.runs import ControlKind, RunKind

_ABOUT = {
    ControlKind.BASE: (
        "A control is the base model without any training, asked the same questions: what a run gains is measured "
        "against it."
    ),
    ControlKind.NO_OP: (
        "A no-op control is the base model through a fresh adapter that changes nothing: it must answer as the base "
        "does, else adapters are applied wrongly."
    ),
    ControlKind.SHUFFLED: (
        "A shuffled control is trained like the first condition and seed, on the same prompts with each other's "
        "answers: what it gains over the base is the form of the answers and not the task."
    ),
}
_TYPES = {ControlKind.NO_OP: "control (no-op)", ControlKind.SHUFFLED: "control (shuffled)"}


def control_of(run: PlannedRun) -> ControlKind | None:
    """Which control a run is; plans of before do not say it of the base."""
    return ControlKind.BASE if run.control is None and run.kind is RunKind.CONTROL else run.control


def type_of(run: PlannedRun) -> str:
    """`fine-tuned`, `control`, `control (shuffled)`."""
    control = control_of(run)
    return run.kind.value if control is None else _TYPES.get(control, RunKind.CONTROL.value)


def about_controls(plan: Plan) -> Iterator[str]:
    """A sentence for each kind of control that is there."""
    there = {control_of(run) for run in plan.runs}
    yield from (text for kind, text in _ABOUT.items() if kind in there)


def about_general(plan: Plan) -> Iterator[str]:
    """What the harness is asked for; nothing where it is not asked."""
    asked: dict[GeneralConfig, None] = {}
    for run in plan.runs:
        if run.evaluate.general is not None:
            asked[run.evaluate.general] = None
    for general in asked:
        own = (
            "" if general.include_path is None else f", some from {general.include_path}, which may hold code of yours"
        )
        limit = "" if general.limit is None else f", the first {general.limit:,} items of each"
        yield (
            f"General ability: lm-evaluation-harness scores the base and the last checkpoints on "
            f"{', '.join(general.tasks)}{own}{limit}; its time is not predicted"
        )
