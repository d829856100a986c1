"""Pages of what is found in the settings of an evaluation while they are resolved."""

from __future__ import annotations

from touchline.domain.finding import Severity

DOCUMENTED_EVALUATION: dict[str, tuple[Severity, str, str]] = {
    "EV301": (
        Severity.ERROR,
        "further-task-not-usable",
        """`evaluate.tasks` names a task that does not exist, a file that holds none, or the experiment's own task.

        Why: the evaluation comes after the training, so a wrong name would show when the hours are spent.

        Fix: a ready-made task's name, or `FILE.py@name` of a function with `@task`, relative to experiment.yaml. The
        file is parsed and hashed here; only the evaluation process runs it.

        Bad: experiment
            evaluate: {tasks: [exakt_match]}

        Good: experiment
            evaluate: {tasks: [number]}
        """,
    ),
}
