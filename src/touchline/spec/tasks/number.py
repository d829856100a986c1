"""Questions whose answer is a number, somewhere in what the model writes: the last one there counts."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from touchline.spec.tasks.protocol import Scores, Task, score_text

_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?![\w])")
_DIGITS_LIMIT = 400


def score_number(output: str, target: str) -> Scores:
    """Score by the last number in the output: right if it equals the target's, as 1,200 and 1200.0 do.

    `exact` asks for the number alone, as the target has it. A target that is no number is compared as text.

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
