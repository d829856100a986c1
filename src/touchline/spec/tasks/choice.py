"""Questions with lettered choices: the letter is read from what the model writes."""

from __future__ import annotations

import re

from touchline.spec.tasks.protocol import Scores, Task, score_text

_LETTER = re.compile(r"[A-Z]")
_SAID = re.compile(r"(?i:\banswer|\bchoice|\boption)(?i:\s+is)?\s*[:=]?\s*\(?\[?([A-Z])\b")
_FIRST = re.compile(r"\s*[\(\[*]*([A-Z])(?:[\)\]*.:,]|\s*$|\s*\n)")


def score_choice(output: str, target: str) -> Scores:
    """Score by the letter in the output: right if it is the target's.

    The letter is the one that the output begins with (`B`, `(B)`, `B.`), or else the last one after `answer`, `choice`
    or `option`. `exact` asks for the letter alone. A target that is no capital letter is compared as text.

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
    said = _SAID.findall(output)
    return said[-1] if said else None


CHOICE = Task(name="choice", prompt="{input}", score=score_choice)
