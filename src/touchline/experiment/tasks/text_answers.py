"""Ready-made tasks whose answer is compared as text, as a number, or as the letter of a choice."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from touchline.experiment.tasks.protocol import Scores, Task, score_text

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
