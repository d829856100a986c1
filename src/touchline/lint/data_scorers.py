"""Scorers as plain functions (output, target) -> right: those of touchline's tasks, and common ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from touchline.core.errors import InputError
from touchline.spec.tasks.protocol import score_text
from touchline.spec.tasks.ready_made import TASKS, get_task


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """Rule for right answers."""

    name: str
    """`match`, or a task's name."""
    right: Callable[[str, str], bool]
    """Function that returns True if an output is right for a target."""
    stated: bool = False
    """Whether the experiment or the user named it."""


def _match(output: str, target: str) -> bool:
    try:
        return score_text(output, target).match
    except InputError:  # an empty target
        return False


def _exact(output: str, target: str) -> bool:
    return output.strip() == target.strip()


def _includes(output: str, target: str) -> bool:
    return target.casefold() in output.casefold()


def _either(output: str, target: str) -> bool:
    return _includes(output, target) or _includes(target, output)


SCORERS: dict[str, Callable[[str, str], bool]] = {
    "match": _match,
    "exact": _exact,
    "includes": _includes,
    "either": _either,
}
"""Scorers by name: equal except punctuation and white space, equal, target in the output, either in the other."""
USUAL_SCORER = Scorer(name="match", right=_match)
"""Default scorer if none is given."""


def scorer_of(name: str, labels: Sequence[str] = ()) -> Scorer | None:
    """Return the scorer, or the one of the task of that name; None if there is none.

    Args:
        name: its name.
        labels: the labels of the dataset, for a task that reads one of them.
    """
    if name in SCORERS:
        return Scorer(name=name, right=SCORERS[name], stated=True)
    if name in TASKS:
        score = get_task(name, labels).score

        def right(output: str, target: str) -> bool:
            try:
                return score(output, target).match
            except InputError:
                return False

        return Scorer(name=name, right=right, stated=True)
    return None
