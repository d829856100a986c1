"""Ready-made tasks: a prompt, scorers, and for some a generator of data; plain functions, no model and no file."""

from __future__ import annotations

import difflib

from touchline.errors import InputFault
from touchline.tasks.capitalization import CAPITALIZATION
from touchline.tasks.choice import CHOICE
from touchline.tasks.exact_match import EXACT_MATCH
from touchline.tasks.number import NUMBER
from touchline.tasks.protocol import Scores, Task

__all__ = ["TASKS", "Scores", "Task", "get_task"]

TASKS = {task.name: task for task in (CAPITALIZATION, EXACT_MATCH, NUMBER, CHOICE)}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        InputFault: there is none.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        raise InputFault(
            f"there is no task {name!r}",
            expected=f"one of {', '.join(TASKS)}",
            hint=f"task: {near[0] if near else 'exact_match'}",
        )
    return TASKS[name]
