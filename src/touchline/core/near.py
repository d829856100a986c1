"""Known names that resemble an unknown one: "did you mean ...?".

Three questions differ. `near_names` serves closed sets, where anything unknown is wrong. `nearest` counts
slips in the keys of a trainer's arguments. `misspelled` is strict: many unknown names belong to the
user there and are right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import overload

_SHORTEST = 4
"""A shorter name is near to too many others."""
_SUBSTITUTION_FROM = 7
"""In a shorter name another letter makes another word: `top_k`, `top_p`."""
_TWO_FROM = 10
"""A name of so many letters may have two slips."""
_DIGITS = re.compile(r"\d+")


def near_names(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that resemble a name, the nearest first."""
    return difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


@overload
def did_you_mean(near: Sequence[str], otherwise: str) -> str: ...
@overload
def did_you_mean(near: Sequence[str], otherwise: None = None) -> str | None: ...
def did_you_mean(near: Sequence[str], otherwise: str | None = None) -> str | None:
    """Return `did you mean 'a' or 'b'?`, or what is said where nothing is near."""
    return f"did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known names that differ in case and punctuation alone, else those with the fewest slips."""
    bare, allowed = _letters(name), slips_allowed(name)
    best: list[str] = []
    for other in known:
        if _letters(other) == bare:
            return (other,)
        if abs(len(other) - len(name)) > allowed or (other[:1] != name[:1] and other[-3:] != name[-3:]):
            continue
        away = slips(name, other, allowed)
        if away < allowed or (away == allowed and not best):
            best = [] if away < allowed else best
            allowed = away
            best.append(other)
        elif away == allowed:
            best.append(other)
    return tuple(best)


def slips_allowed(name: str) -> int:
    """Return the number of slips that a name of that length may have."""
    return 0 if len(name) < 5 else 1 if len(name) < 9 else 2


def slips(one: str, other: str, limit: int) -> int:
    """Return the letters to add, drop, replace or swap with a neighbor (Damerau-Levenshtein), at most limit + 1."""
    before_last: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        here = [row]
        for column, against in enumerate(other, start=1):
            cost = min(last[column] + 1, here[column - 1] + 1, last[column - 1] + (letter != against))
            if before_last and column > 1 and letter == other[column - 2] and one[row - 2] == against:
                cost = min(cost, before_last[column - 2] + 1)
            here.append(cost)
        if min(here) > limit:
            return limit + 1
        before_last, last = last, here
    return last[-1]


def _letters(name: str) -> str:
    return re.sub(r"[-_. ]", "", name).casefold()


def misspelled(name: str, known: Iterable[str], taken: Collection[str] = ()) -> str | None:
    """Return the one known name that this is a misspelling of. None if there is none, or more than one.

    Numbers are never misspelt here: `llama3_2_1b` and `llama3_2_3b` are two models.

    Args:
        taken: known names that are used already, and so are not what was meant.
    """
    if len(name) < _SHORTEST:
        return None
    away = {other: _slips_between(name, other) for other in known if other not in taken and other != name}
    near = {other: count for other, count in away.items() if count is not None}
    best = [other for other, count in near.items() if count == min(near.values())]
    return best[0] if len(best) == 1 else None


def _slips_between(name: str, other: str) -> int | None:
    """Return the number of slips between two names. None if they are different words."""
    if _DIGITS.findall(name) != _DIGITS.findall(other):
        return None
    if _plain(name) == _plain(other):
        return 0
    shorter = min(len(name), len(other))
    if shorter < _SUBSTITUTION_FROM and len(name) == len(other) and sorted(name) != sorted(other):
        return None
    most = 2 if shorter >= _TWO_FROM else 1
    found = slips(name, other, most)
    return found if found <= most else None


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()
