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
    "EV304": (
        Severity.ERROR,
        "labels-not-usable",
        """The answers of a classification's dataset are no set of labels, or not those that `evaluate.labels` names.

        Why: the label is read from what a model writes, so the labels must be known, few, and told apart by their
        words; one that training never shows is not learned.

        Fix: name the column with the labels as `data.output`, name all labels, or take `task: exact_match`. Spellings
        that differ in case alone, and labels without a training row, are warnings.

        Bad: experiment
            task: classification

        Good: experiment
            task: capitalization
        """,
    ),
    "EV305": (
        Severity.WARNING,
        "task-prompt-unlike-training",
        """A task asks its items otherwise than training does: another template, a system turn, worked examples.

        Why: a model is taught to answer one prompt. Asked another one, it scores lower than it can, and its control,
        which was taught neither, does not: the gain of training looks smaller than it is.

        Fix: give training the same prompt (`data.prompt`, `data.system`), or let the task's function have an argument
        `data`, which brings training's prompts. Prompts that only show while a task runs are compared after the
        evaluation, and the report tells. Ready-made further tasks ask on purpose with their own prompt: information.

        Bad: experiment
            evaluate: {tasks: [exact_match]}

        Good: experiment
            evaluate: {batch_size: 8}
        """,
    ),
}
