"""Prompts of tasks against those of training, as far as they are known before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.finding import Finding, Severity, Where
from touchline.spec.evaluation import EvaluationTask
from touchline.spec.experiment import DataConfig
from touchline.spec.tasks.ready_made import get_task

CODE = "EV305"


def prompt_findings(
    task: EvaluationTask, data: DataConfig, where: Where | None, *, is_own: bool, labels: Sequence[str] = ()
) -> Iterator[Finding]:
    """Find what a task asks otherwise than training, and say so where that cannot be known.

    Args:
        task: a further task, or the experiment's own in a file.
        data: how training makes prompts.
        where: where the task is named.
        is_own: whether it is the experiment's own.
        labels: the labels of the dataset, which stand in the prompt of a classification.
    """

    def finding(severity: Severity, message: str, hint: str | None = None) -> Finding:
        subject = "task" if is_own else "evaluate.tasks"
        return Finding(code=CODE, severity=severity, subject=subject, message=message, where=where, hint=hint)

    if not task.is_file:
        own = get_task(task.name, labels).prompt
        if data.messages is None and data.prompt is not None and own != data.prompt:
            yield finding(
                Severity.INFO,
                f"the task {task.name} asks {own!r}, training asks {data.prompt!r}",
                f"data.prompt: {own!r}",
            )
        return
    same = f"system_message({data.system!r})" if data.system and not task.takes_data else None
    if changed := [call for call in dict.fromkeys(task.own_prompt) if call != same]:
        system = f" and has the system turn {data.system!r}" if data.system else ""
        trained = "chats" if data.messages is not None else repr(data.prompt or "{input}")
        yield finding(
            Severity.WARNING,
            f"the task {task.name} changes the prompt by {', '.join(changed)}; training asks {trained}{system}, so the "
            "models are asked otherwise than they were taught",
            "data: {system: ..., prompt: ...} gives training the same turns",
        )
    elif not task.takes_data:
        yield finding(
            Severity.INFO,
            f"whether {task.name} asks as training does cannot be known before it runs; the evaluation compares them, "
            "and with an argument `data` the task gets training's prompts",
        )
