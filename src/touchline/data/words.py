"""Word lists: two built-in ones, and files of words."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded

_LIMIT_BYTES = 64 << 20
"""Size of the largest word list that is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WordList:
    """Origin of words."""

    name: str
    version: str
    licence: str
    """Its licence; the text is in the same folder."""
    sha256: str
    selection: str
    """Selection from the source."""


_LICENCE = "SCOWL: use, copy, modify, distribute and sell with the copyright notice"
_SELECTION = "words of 3 to 15 letters, a to z only, lower case in the source"
AMERICAN_ENGLISH = WordList(
    name="american-english (SCOWL, by Kevin Atkinson; Debian package wamerican)",
    version="2020.12.07-2",
    licence=_LICENCE,
    sha256="2dcd1951cfcf1394f3ceafd0502ae095020778bcbeb84d1531a4662d2e7d8348",
    selection=_SELECTION,
)
AMERICAN_ENGLISH_HUGE = WordList(
    name="american-english-huge (SCOWL, by Kevin Atkinson; Debian package wamerican-huge)",
    version="2020.12.07-2",
    licence=_LICENCE,
    sha256="5abebd7024688b2a29782d4f6ae2ec2a5c190ceb40dd4f17da257572529e8e53",
    selection=_SELECTION,
)
_FILES = {AMERICAN_ENGLISH.sha256: "american-english.txt", AMERICAN_ENGLISH_HUGE.sha256: "american-english-huge.txt.gz"}


def load_words(words: WordList = AMERICAN_ENGLISH) -> list[str]:
    """Return the words of a list that comes with touchline, sorted.

    Raises:
        HostError: the installed file differs from the one that was shipped.
    """
    name = _FILES[words.sha256]
    data = (resources.files("touchline.data") / "wordlists" / name).read_bytes()
    try:
        data = gzip.decompress(data) if name.endswith(".gz") else data
    except (OSError, EOFError):
        data = b""
    if hashlib.sha256(data).hexdigest() != words.sha256:
        raise HostError(
            f"the installed word list {name} was changed, so its datasets would not be reproducible",
            expected=f"a file with the hash {words.sha256}",
            hint="pip install --force-reinstall --no-deps touchline",
        )
    return data.decode("ascii").split()


def choose_words(word_length: int, num_words: int, file: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Return a word list and its origin: the given file, or the smaller of the two shipped lists that has enough words.

    Raises:
        InputError: the file is missing, is not UTF-8 text, or has no such words.
        HostError: a shipped list was changed.
    """
    if file is not None:
        return _read_list(file, word_length)
    words = load_words()
    if sum(len(word) == word_length for word in words) >= num_words:
        return words, asdict(AMERICAN_ENGLISH)
    return load_words(AMERICAN_ENGLISH_HUGE), asdict(AMERICAN_ENGLISH_HUGE)


def count_words(word_length: int) -> int:
    """Return the number of words of one length in the larger list that comes with touchline."""
    return sum(len(word) == word_length for word in load_words(AMERICAN_ENGLISH_HUGE))


def _read_list(file: Path, word_length: int) -> tuple[list[str], dict[str, str]]:
    """Return the words of a file that are in lower case and have letters only, in any script."""
    text = read_text_bounded(file, _LIMIT_BYTES)
    lines = {line.strip() for line in text.splitlines()}
    words = sorted(word for word in lines if word.isalpha() and word == word.lower() != word.capitalize())
    if not any(len(word) == word_length for word in words):
        lengths = Counter(len(word) for word in words)
        common = lengths.most_common(1)
        raise InputError(
            f"{str(file)!r} has no lower-case words of {word_length} letters",
            expected="one word per line"
            + (
                f" (available: {', '.join(f'{n} letters: {lengths[n]:,}' for n in sorted(lengths))})" if lengths else ""
            ),
            hint=f"--word-length {common[0][0]}" if common else None,
        )
    about = {
        "name": file.name,
        "version": "",
        "licence": "not stated",
        "sha256": hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(),
        "selection": "lower-case words of letters only",
    }
    return words, about
