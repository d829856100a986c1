"""What a task is, and how one answer is scored."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from touchline.errors import InputFault

SCORER_VERSION = 1
"""Changes when a score would change; evaluations by another version are made again."""

_INSIGNIFICANT = re.compile(r"[\W_]+", re.UNICODE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Whether one answer is right."""

    exact: bool
    """Equal, character by character, after surrounding white space is taken off."""
    match: bool
    """Equal when punctuation and white space do not count; case does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task."""

    name: str
    """As `task` in experiment.yaml says it."""
    prompt: str
    """The user's turn, with `{input}`."""
    score: Callable[[str, str], Scores]
    """Scores of (output, target)."""


def score_text(output: str, target: str) -> Scores:
    """Compare an answer with its target; an empty answer is never right.

    Raises:
        InputFault: the target is empty, so that nothing could be told from wrong.
    """
    if not target.strip():
        raise InputFault("an empty target cannot be scored", expected="an answer in every row")
    exact = output.strip() == target.strip()
    bare = _INSIGNIFICANT.sub("", target)
    return Scores(exact=exact, match=exact or (bool(bare) and _INSIGNIFICANT.sub("", output) == bare))
