"""Texts of rows: normal form and suspicious characters; lists of allowed answers, and the one that is chosen."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from touchline.core.near import near_names
from touchline.core.text import shorten

_SHOWN = 60
_DIGITS = re.compile(r"\d+")
_NOT_WORD = re.compile(r"[\W_]+")
_SPACE = re.compile(r"\s+")
_ENDS = ".!?。！？؟।…"
"""Characters that end a sentence, in several scripts."""

# UTF-8 that was read as Windows-1252 or Latin-1: a lead byte's character and then a continuation byte's.
_CP1252 = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_CONTINUED = f"[\x80-\xbf{_CP1252}]"
_MOJIBAKE = re.compile(f"[Â-ß]{_CONTINUED}|[à-ï]{_CONTINUED}{{2}}|ð{_CONTINUED}{{3}}")


def normal(text: str) -> str:
    """Normalize case and white space of a text; also punctuation if it has no digits.

    With digits punctuation stays: `3-2` and `3/2`, `1.5` and `15` are different questions.
    """
    folded = text.casefold()
    if _DIGITS.search(folded):
        return _SPACE.sub(" ", folded).strip().rstrip(_ENDS + " ")
    bare = _NOT_WORD.sub(" ", folded).strip()
    # Nothing but symbols, or a script whose vowel signs are no word characters: then the text itself.
    return bare or _SPACE.sub(" ", folded).strip()


def squeezed(text: str) -> str:
    """Return a label without case, white space and punctuation, to compare spellings."""
    folded = text.casefold()
    return _NOT_WORD.sub("", folded) or folded.strip()


def template_of(prompt: str) -> str:
    """Return the part of a prompt that rows may share: up to the first colon or newline, without numbers."""
    head = re.split(r"[:\n]", prompt, maxsplit=1)[0][:200]
    return _SPACE.sub(" ", _DIGITS.sub("0", head)).strip()


def short(text: str) -> str:
    """Return a text for a message: quoted, at most 60 characters, without invisible or right-to-left characters."""
    return repr(shorten(text, _SHOWN))


def mojibake(text: str) -> str | None:
    """Return the first piece of UTF-8 decoded with another encoding, such as `Ã©`. None if there is none."""
    if text.isascii():
        return None
    for match in _MOJIBAKE.finditer(text):
        piece = match.group()
        if _as_was(piece) is not None:
            return piece
    return None


def repaired(piece: str) -> str:
    """Return the original text of such a piece."""
    return _as_was(piece) or piece


def _as_was(piece: str) -> str | None:
    try:
        # Windows-1252 leaves five bytes undefined; readers give those as they are.
        return b"".join(each.encode("latin-1" if ord(each) < 256 else "cp1252") for each in piece).decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        return None


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
