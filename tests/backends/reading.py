"""A backend's readers on a text or a fixture, as the scan offers it to them, and what to ask of their events."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from touchline.backends.logtext.dicts import read_row
from touchline.backends.logtext.reader import DocumentReader, LogReader
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.experiment.document import parse

_WORD = re.compile(r"[a-z_]+")
_ESCAPE = re.compile(r"\x1b\[[\d;]*m")


class Readers:
    """The readers of one trainer, and the folder of its fixtures."""

    def __init__(self, lines: Sequence[type[LogReader]], documents: Sequence[DocumentReader], fixtures: Path) -> None:
        self._lines, self._documents, self._fixtures = lines, documents, fixtures

    def read(self, text: str) -> list[Event]:
        """The readers' events of a text, each line offered by its words as the scan does it."""
        events: list[Event] = []
        readers = [reader() for reader in self._lines]
        for number, line in enumerate(text.split("\n"), 1):
            for part in line.split("\r"):
                clean = _ESCAPE.sub("", part)
                words = set(_WORD.findall(clean.lower()))
                for reader in readers:
                    if words & reader.words:
                        events += reader.line(clean, number)
                        row = read_row(clean)
                        if row is not None:
                            events += reader.row(row, clean, number)
        return events

    def read_file(self, name: str) -> list[Event]:
        """The events of a fixture."""
        return self.read((self._fixtures / name).read_text(encoding="utf-8"))

    def document(self, name: str) -> tuple[Event, ...] | None:
        """What the first reader of documents says of a fixture."""
        text = (self._fixtures / name).read_text(encoding="utf-8")
        data = json.loads(text) if name.endswith(".json") else parse(text, name).data
        assert isinstance(data, dict)
        return self._documents[0](name, data)


def facts(events: list[Event] | tuple[Event, ...] | None, *names: str) -> list[tuple[object, ...]]:
    """Name, value and line of the observations of some names, or of all but the trainer."""
    return [
        (event.name, event.value, event.line)
        for event in events or ()
        if isinstance(event, Observation) and (event.name in names if names else event.name != "trainer")
    ]


def signs(events: list[Event]) -> list[tuple[SignKind, int, int | None]]:
    """Kind, line and step of each sign."""
    return [(event.kind, event.line, event.step) for event in events if isinstance(event, Sign)]


def only(events: list[Event], name: str) -> Observation:
    """The one observation of a name."""
    [found] = [event for event in events if isinstance(event, Observation) and event.name == name]
    return found
