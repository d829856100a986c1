"""The reader of what is no backend's: other trainers, loops of no known trainer, facts that scripts print.

One reader asks one after the other, so that a line is told once: a trainer's own form first, then bars, loops, facts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import ClassVar

from touchline.backends.logtext.reader import LogReader, Row
from touchline.core.observation import Event
from touchline.history import (
    frameworks,
    generic_clusters,
    generic_dumps,
    generic_fact_names,
    generic_facts,
    generic_labs,
    generic_vendors,
)
from touchline.history.generic_bars import Bars
from touchline.history.generic_grammar import said
from touchline.history.generic_rows import Rows
from touchline.history.generic_vocabulary import EPOCH_WORDS, LOSS_WORDS
from touchline.history.generic_voice import Voice
from touchline.history.loops import HELD_OUT_WORDS, Loops


class TrainingLines:
    """Reads one file's lines of trainers and loops without a backend."""

    words: ClassVar[frozenset[str]] = (
        LOSS_WORDS
        | EPOCH_WORDS
        | frameworks.WORDS
        | generic_clusters.WORDS
        | generic_dumps.WORDS
        | generic_labs.WORDS
        | generic_vendors.WORDS
        | generic_fact_names.WORDS
        | HELD_OUT_WORDS
    )

    def __init__(self) -> None:
        """Nothing was read."""
        voice = Voice()
        makers: tuple[Callable[[Voice], frameworks.Framework], ...]
        makers = (*frameworks.FRAMEWORKS, *generic_clusters.CLUSTERS, *generic_vendors.VENDORS)
        makers = (*makers, *generic_labs.LABS)
        self._frameworks: tuple[frameworks.Framework, ...] = tuple(made(voice) for made in makers)
        self._bars = Bars(voice)
        self._loops = Loops(voice)
        self._rows = Rows(voice)
        self._facts = generic_facts.Facts(voice)
        self._dumps = generic_dumps.Dumps(voice)
        self._voice = voice
        self._rank: str | None = None

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Events of one line."""
        if text[:1] == "{" and text.rstrip().endswith("}"):
            return ()  # a dictionary, read as a row
        rank, rest = said(text) if len(text) < _LONG else ("", text)
        if rank and "loss" in text.lower():
            # Of several processes that print the same, the first one counts.
            if self._voice.has_trained and rank != (self._rank or rank):
                return ()
            self._rank = rank
        for framework in self._frameworks:
            events = framework.line(text, rest, number)
            if events is not None:
                return events
        if "%|" in text or "it [" in text or "━" in text:
            events = list(self._bars.line(text, number))
            behind = _BEHIND_A_BAR.search(text)
            # What follows a bar on its line was printed by something else.
            return events if behind is None else [*events, *self.line(behind.group("rest"), number)]
        events = list(self._loops.line(text, number))
        dumped = [] if events else list(self._dumps.line(text, number))
        if events or self._dumps.is_source(text, number):
            return events
        return list(self._facts.line(text, number)) or dumped

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Events of a dictionary."""
        events = list(self._rows.row(row, text, number))
        return events or (list(self._dumps.row(row, number)) if text[:1] == "{" and "'" in text[:12] else events)


_LONG = 4096
_BEHIND_A_BAR = re.compile(r".*(?:it/s|s/it)[^\]%]{0,200}\](?P<rest>[^\]%|]{12,})$")
READERS: tuple[type[LogReader], ...] = (TrainingLines,)
"""Readers of lines."""
