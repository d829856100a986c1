"""The section of the plan on what else is evaluated: which of it is code, from where, and how it is known again."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.domain.evaluation import EvaluationTask
from touchline.domain.plan import Plan

HEADER = ("task", "from", "lines", "sha256")


def rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Each further task; nothing where there are none."""
    for task in plan.tasks:
        if task.file is None or task.sha256 is None:
            yield task.name, "ready-made, with its own prompt", "-", "-"
        else:
            yield task.name, _place(task), "-" if task.lines is None else f"{task.lines:,}", task.sha256[:12]


def about(plan: Plan) -> Iterator[str]:
    """What to know before such a plan is accepted."""
    if any(task.file is not None for task in plan.tasks):
        yield (
            "A task in a file is code of yours, run with your rights by the evaluation process and by nothing else: "
            "read it before you go on. If the file changes after this plan, the evaluation refuses it; modules and "
            "data that it reads are not looked at, but other items than another run had are never compared. How many "
            "items it has is not known before it runs: its time is taken to be that of the experiment's own task."
        )


def _place(task: EvaluationTask) -> str:
    return f"{task.file}" if task.function is None else f"{task.file}, {task.function}"
