"""Ready-made tasks by name."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.errors import InputError
from touchline.core.near import did_you_mean, near_names
from touchline.experiment.tasks.capitalization import CAPITALIZATION
from touchline.experiment.tasks.classification import CLASSIFICATION
from touchline.experiment.tasks.protocol import Task
from touchline.experiment.tasks.text_answers import CHOICE, EXACT_MATCH, NUMBER

TASKS = {task.name: task for task in (CAPITALIZATION, CLASSIFICATION, EXACT_MATCH, NUMBER, CHOICE)}


def get_task(name: str, labels: Sequence[str] = ()) -> Task:
    """Return the task of that name.

    Args:
        name: as experiment.yaml has it.
        labels: the labels of the dataset, for a task that reads one of them.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError(
            f"there is no task {name!r}",
            expected=f"one of {', '.join(TASKS)}, or a file, tasks/mine.py@name",
            hint=did_you_mean(near_names(name, TASKS), "classification if the answers are labels, or exact_match"),
        )
    task = TASKS[name]
    return task if task.with_labels is None or not labels else task.with_labels(labels)
