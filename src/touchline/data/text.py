"""Properties of texts: normal form and suspicious characters."""

from __future__ import annotations

import re

from touchline.core.text import shorten

_SHOWN = 60
_DIGITS = re.compile(r"\d+")
_NOT_WORD = re.compile(r"[\W_]+")
_SPACE = re.compile(r"\s+")
_ENDS = ".!?。！？؟।…"
"""Characters that end a sentence, in several scripts."""
_CLOSING = "\"'”’)]}»」』*`"

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
        data = b"".join(_byte(character) for character in piece)
        return data.decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        return None


def _byte(character: str) -> bytes:
    # Windows-1252 leaves five bytes undefined; readers give those as they are.
    return character.encode("latin-1") if ord(character) < 256 else character.encode("cp1252")


def ends_whole(text: str) -> bool:
    """Return True if a text ends like a sentence, list or code block, not within a word."""
    tail = text.rstrip().rstrip(_CLOSING)
    return len(tail) < len(text.rstrip()) or tail[-1:] in _ENDS or not tail[-1:].isalpha()
