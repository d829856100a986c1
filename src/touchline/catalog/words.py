"""The word list that comes with touchline."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from touchline.errors import EnvironmentFault


@dataclass(frozen=True, kw_only=True, slots=True)
class WordList:
    """Where words come from."""

    name: str
    """Its name."""
    version: str
    """Its version."""
    licence: str
    """Under which it may be used; the text lies beside it."""
    sha256: str
    """Hash of the file as it is shipped."""
    selection: str
    """What was taken from the source."""


AMERICAN_ENGLISH = WordList(
    name="american-english (SCOWL, by Kevin Atkinson; Debian package wamerican)",
    version="2020.12.07-2",
    licence="SCOWL: use, copy, modify, distribute and sell with the copyright notice",
    sha256="2dcd1951cfcf1394f3ceafd0502ae095020778bcbeb84d1531a4662d2e7d8348",
    selection="words of 3 to 15 letters, a to z only, lower case in the source",
)


def load_words() -> list[str]:
    """The words, sorted.

    Raises:
        EnvironmentFault: the installed file is another one.
    """
    data = (resources.files("touchline.catalog") / "wordlists" / "american-english.txt").read_bytes()
    if hashlib.sha256(data).hexdigest() != AMERICAN_ENGLISH.sha256:
        raise EnvironmentFault(
            "the installed word list was changed, so datasets made from it could not be made again",
            expected=f"a file with the hash {AMERICAN_ENGLISH.sha256}",
            hint="pip install --force-reinstall --no-deps touchline",
        )
    return data.decode("ascii").split()
