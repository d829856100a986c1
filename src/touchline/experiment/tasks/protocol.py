"""Interface of tasks, and the scoring of one answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
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


EXACT_MATCH = Task(name="exact_match", prompt="{input}", score=score_text)


_LETTER = re.compile(r"[A-Z]")
_SAID = re.compile(r"(?i:\banswer|\bchoice|\boption)(?i:\s+is)?\s*[:=]?\s*\(?\[?([A-Z])\b")
_FIRST = re.compile(r"\s*[\(\[*]*([A-Z])(?:[\)\]*.:,]|\s*$|\s*\n)")


def score_choice(output: str, target: str) -> Scores:
    """Score by the letter in the output: right if it is the target's.

    The letter is the one that the output begins with (`B`, `(B)`, `B.`), or else the last one after `answer`, `choice`
    or `option`. `exact` asks for the letter alone. A target that is not a capital letter is compared as text.

    Raises:
        InputError: the target is empty.
    """
    alike = score_text(output, target)
    wanted = target.strip()
    if not _LETTER.fullmatch(wanted):
        return alike
    letter = chosen(output)
    return Scores(exact=alike.exact, match=alike.exact or letter == wanted, parsed=letter is not None)


def chosen(output: str) -> str | None:
    """Return the letter in an output; None if there is none."""
    first = _FIRST.match(output)
    if first is not None:
        return first[1]
    matches = _SAID.findall(output)
    return matches[-1] if matches else None


CHOICE = Task(name="choice", prompt="{input}", score=score_choice)


_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?![\w])")
_DIGITS_LIMIT = 400


def score_number(output: str, target: str) -> Scores:
    """Score by the last number in the output: right if it equals the target's, as 1,200 and 1200.0 do.

    `exact` asks for the number alone, as the target has it. A target that is not a number is compared as text.

    Raises:
        InputError: the target is empty.
    """
    alike = score_text(output, target)
    wanted = _value(target.strip())
    if wanted is None:
        return alike
    found = numbers(output)
    right = bool(found) and found[-1] == wanted
    return Scores(exact=alike.exact, match=right or alike.exact, parsed=bool(found))


def numbers(text: str) -> list[Decimal]:
    """Return the numbers in a text, in order."""
    found = (_value(match[0]) for match in _NUMBER.finditer(text) if match[0])
    return [value for value in found if value is not None]


def _value(text: str) -> Decimal | None:
    """Read a number, with or without thousands separators; None for other texts."""
    if len(text) > _DIGITS_LIMIT or not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text.replace(",", "").replace("\u2212", "-"))
    except InvalidOperation:
        return None


NUMBER = Task(name="number", prompt="{input}", score=score_number)
