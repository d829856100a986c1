"""Reader of training loops: trainers that only print rows, loops of no known trainer, facts that scripts print.

The parts are tried in order, so that a line is read once: a trainer's own form first, then bars, loops, facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from touchline.backends.logtext.emitter import EventEmitter
from touchline.backends.logtext.prefixes import strip_decoration
from touchline.backends.logtext.reader import Row
from touchline.backends.registry import form_readers
from touchline.core.observation import Event
from touchline.history.loops.bars import LossBarReader
from touchline.history.loops.dict_rows import DictRowParser
from touchline.history.loops.facts import WORDS as FACT_WORDS
from touchline.history.loops.facts import FactReader
from touchline.history.loops.rows import HELD_OUT_WORDS, LoopReader
from touchline.history.loops.vocabulary import EPOCH_WORDS, LOSS_WORDS

_LONG = 4096
_BEHIND_A_BAR = re.compile(r".*(?:it/s|s/it)[^\]%]{0,200}\](?P<rest>[^\]%|]{12,})$")


class TrainingLines:
    """Reader of one file's lines of trainers and loops without a reader of their own."""

    words: ClassVar[frozenset[str]] = (
        LOSS_WORDS
        | EPOCH_WORDS
        | HELD_OUT_WORDS
        | FACT_WORDS
        | frozenset(word for reader in form_readers() for word in reader.words)
    )

    def __init__(self) -> None:
        """Start a file."""
        self._emitter = EventEmitter()
        self._forms = tuple(made(self._emitter) for made in form_readers())
        self._bars = LossBarReader(self._emitter)
        self._loops = LoopReader(self._emitter)
        self._rows = DictRowParser(self._emitter)
        self._facts = FactReader(self._emitter)
        self._rank: str | None = None

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line."""
        if text[:1] == "{" and text.rstrip().endswith("}"):
            return ()  # a dictionary, read as a row
        rank, rest = strip_decoration(text) if len(text) < _LONG else ("", text)
        if rank and "loss" in text.lower():
            # Of several processes that print the same, the first one counts.
            if self._emitter.has_trained and rank != (self._rank or rank):
                return ()
            self._rank = rank
        for reader in self._forms:
            events = reader.line(text, rest, number)
            if events is not None:
                return events
        if "%|" in text or "it [" in text:
            events = list(self._bars.line(text, number))
            behind = _BEHIND_A_BAR.search(text)
            # What follows a bar on its line was printed by something else.
            return events if behind is None else [*events, *self.line(behind["rest"], number)]
        return list(self._loops.line(text, number)) or list(self._facts.line(text, number))

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return the events of a dictionary."""
        return self._rows.row(row, text, number)
