"""Interface of tasks, and the scoring of one answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from touchline.core.errors import InputError

SCORER_VERSION = 1
"""Changes when a score would change; evaluations by another version are made again."""

_INSIGNIFICANT = frozenset({"Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Zs", "Zl", "Zp", "Cc", "Sk"})
"""Unicode's categories of punctuation, separators, control characters and lone accents (the backtick is one).

Not simply all that is no letter: vowel signs of Indic scripts and symbols such as + and $ distinguish answers.
"""


MetricField = Literal["exact", "match"]
"""Which of an answer's scores a metric is the mean of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Return True if an answer is right."""

    exact: bool
    """Equal, character by character, after surrounding white space is taken off."""
    match: bool
    """Equal when punctuation and white space, also within, do not count; case does."""
    parsed: bool | None = None
    """Whether an answer could be read from the output; None if the output itself is the answer."""
    label: str | None = None
    """The label that was read from the output; None if none was, and for tasks without labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task."""

    name: str
    """As `task` in experiment.yaml says it."""
    prompt: str
    """The user's turn, with `{input}`."""
    score: Callable[[str, str], Scores]
    """Scores of (output, target)."""
    metrics: tuple[tuple[str, MetricField], ...] = (("exact match", "exact"), ("match", "match"))
    """Names of its metrics, and which of the scores each one is; the first is the primary metric."""
    with_labels: Callable[[Sequence[str]], Task] | None = None
    """Gives the same task with the labels of a dataset; None for a task without labels."""

    def metric(self, name: str | None) -> tuple[str, MetricField]:
        """Return the metric of that name; the primary one for None.

        Raises:
            InputError: it has no such metric.
        """
        if name is None:
            return self.metrics[0]
        found = next((each for each in self.metrics if name in each), None)
        if found is None:
            names = [each for each, _ in self.metrics]
            raise InputError(
                f"the task {self.name!r} has no metric {name!r}",
                expected=f"one of {', '.join(names)}",
                hint=f"evaluate.metric: {names[0]}",
            )
        return found


def score_text(output: str, target: str) -> Scores:
    """Compare an answer with its target; an empty answer is never right.

    A target of nothing but punctuation is compared exactly: without it nothing would be left.

    Raises:
        InputError: the target is empty, so that no answer would be wrong.
    """
    if not target.strip():
        raise InputError("an empty target cannot be scored", expected="an answer in every row")
    exact = output.strip() == target.strip()
    bare = _bare(target)
    return Scores(exact=exact, match=exact or (bool(bare) and _bare(output) == bare))


def _bare(text: str) -> str:
    return "".join(character for character in text if unicodedata.category(character) not in _INSIGNIFICANT)
