"""Interfaces of readers of logs: pure, one instance per file, fed in the file's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from touchline.core.observation import Event

Row = Mapping[str, object]
"""Dictionary that a line holds: a JSON object, or a Python dict as `print` writes it; values as written."""


class LogReader(Protocol):
    """Converter of lines to events. Feed it lines in order; it may use earlier lines, never later ones.

    A reader may have a property `inside`: while it is true, as within a traceback, every line is offered to it.
    """

    words: ClassVar[frozenset[str]]
    """Lower-case words, made of letters and underscores, or of any non-ASCII characters; a line is offered when it
    holds one of them as a whole word. Digits and punctuation part words: `train_loss=0.5` is `train_loss`."""

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line without escape sequences, carriage returns and its end; at most 64 KiB of it."""
        ...

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line that is, or ends in, one dictionary; `line` is called for it before."""
        ...


class DocumentReader(Protocol):
    """Reader of state files and configs: one mapping, parsed from JSON or YAML."""

    def __call__(self, name: str, document: Row) -> tuple[Event, ...] | None:
        """Return the events of a document, or None if this reader does not know it; `name` is the file's base name."""
        ...


class BarCount(Enum):
    """Unit that a trainer's progress bar counts."""

    RUN_STEPS = "optimizer steps of the run"
    EPOCH_STEPS = "optimizer steps of an epoch"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedTrainer:
    """Trainer as it appears in readings."""

    name: str
    precedence: int = 2
    """Precedence of the trainer if a log shows several: the highest counts. Wrapping programs have 3 or 4, a base that
    others build on has 1, and a library that does not identify the program has 0.
    """
    export_functions: str | None = None
    """Pattern of functions that export the trained model, next to the usual ones."""
    bar: BarCount | None = None
    """Unit of its progress bar, if known."""
