"""Lists of allowed answers in rows or prompts, and the interpretation of an answer."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from touchline.core.near import near_names
from touchline.data.text import squeezed

COLUMNS = ("candidates", "candidate_answers", "options", "choices", "answer_choices", "endings", "answer_options")
"""Columns with a list of allowed answers."""
_TAIL = 4000
"""Characters at the end of a prompt that are searched for a list."""
_NAMES = (
    r"(?:candidate answers|candidates?|options|choices|answer (?:choices|options)|possible answers|allowed answers)"
)
_LISTED = re.compile(rf"(?<![\w-]){_NAMES}\s*[:=]\s*(\[[^\[\]\n]{{1,3000}}\])", re.IGNORECASE)
_LETTERED = re.compile(r"^\s*\(?([A-J])[.):]\s*(\S[^\n]{0,300})$", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Ja-j])\)?[.:)]?")
_MANY = re.compile(r"\s*(?:;|,|/|\||\band\b)\s*")
_NEAR = 0.5
_CLIPPED = 120

Candidates = tuple[str, ...]


def candidates_in(values: Mapping[str, object], column: str | None) -> Candidates | None:
    """Return the list in a row's column. Mappings of letters to texts and ARC's {text: [...], label: [...]} count
    too."""
    value = values.get(column) if column is not None else None
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, Mapping):
        value = value["text"] if isinstance(value.get("text"), list) else list(value.values())
    if not isinstance(value, list) or len(value) < 2:
        return None
    texts = [_text(item) for item in value]
    return None if any(text is None for text in texts) else tuple(str(text) for text in texts)


def candidates_of_prompt(prompt: str) -> Candidates | None:
    """Return the list in a prompt: `Candidates: ['a', 'b']`, or lines `A. ...`."""
    tail = prompt[-_TAIL:]
    if (match := _LISTED.search(tail)) is not None:
        found = _literal(match.group(1))
        texts = [_text(item) for item in found] if isinstance(found, list) else None
        if texts is None:
            texts = [part.strip(" '\"") for part in match.group(1)[1:-1].split(",")]
        return _several(texts)
    lettered = _LETTERED.findall(tail)
    if len(lettered) >= 2 and [letter for letter, _ in lettered] == list("ABCDEFGHIJ"[: len(lettered)]):
        return _several([text for _, text in lettered])
    return None


def _several(texts: list[str | None]) -> Candidates | None:
    if len(texts) < 2 or any(not text for text in texts):
        return None
    return tuple(str(text) for text in texts)


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text.strip()) if len(text) <= _TAIL else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _text(item: object) -> str | None:
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("text", "content", "value") if isinstance(item.get(key), str)), None)
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        return None
    return str(item).strip()


def chosen(answer: str, candidates: Candidates, by_place: bool) -> int | None:
    """Return the index of the candidate that an answer names: by text, by letter and text, or with `by_place` by
    letter or number.

    None when it is none of them; of several answers (`a; b`) the first, when all of them are candidates.
    """
    stripped = answer.strip()
    if stripped in candidates:
        return candidates.index(stripped)
    lettered = re.fullmatch(r"\(?([A-Ja-j])[.):]\s*(.+)", stripped, re.DOTALL)
    if lettered is not None and lettered.group(2).strip() in candidates:
        return candidates.index(lettered.group(2).strip())
    if by_place and (place := placed(stripped, len(candidates))) is not None:
        return place
    parts = [part for part in _MANY.split(stripped) if part]
    if len(parts) > 1 and all(part in candidates for part in parts):
        return candidates.index(parts[0])
    return None


def placed(answer: str, count: int) -> int | None:
    """Return the position that a letter or a number names, from 0. None if it names none of `count`."""
    stripped = answer.strip()
    letter = _LETTER.fullmatch(stripped)
    if letter is not None:
        place = ord(letter.group(1).upper()) - ord("A")
        return place if place < count else None
    if stripped.isdecimal() and len(stripped) < 4:
        return min(int(stripped), count - 1) if int(stripped) <= count else None
    return None


def is_place(answer: str) -> bool:
    """Return True if an answer is a letter or a number, as in multiple choice."""
    stripped = answer.strip()
    return _LETTER.fullmatch(stripped) is not None or (stripped.isdecimal() and len(stripped) < 4)


def nearest(answer: str, candidates: Candidates) -> str | None:
    """Return the candidate that was probably meant."""
    bare = squeezed(answer)
    same = [candidate for candidate in candidates if squeezed(candidate) == bare]
    if same:
        return same[0]
    within = [each for each in candidates if bare and (bare in squeezed(each) or (squeezed(each) or "\0") in bare)]
    if len(within) == 1:
        return within[0]
    near = near_names(answer[:_CLIPPED], [each[:_CLIPPED] for each in candidates[:200]], cutoff=_NEAR)
    return near[0] if near else None
