"""Events of lines as a scan offers them, and what holds for the events of any text, however broken."""

import math
import re
from collections.abc import Iterable

from touchline.backends.logtext.events import LogReader
from touchline.core.observation import Event, Observation

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def assert_sound(events: Iterable[Event] | None, lines: int) -> None:
    """Every event names a line that is there (0: the whole file), and no number is infinite or NaN.

    Args:
        events: what a reader gave; None from one to whom the document did not belong.
        lines: how many lines it was given.
    """
    for event in events or ():
        assert 0 <= event.line <= lines
        if isinstance(event, Observation) and isinstance(event.value, float):
            assert math.isfinite(event.value), event


def is_offered(reader: type[LogReader], line: str) -> bool:
    """Whether a line holds one of the words by which it is offered to a reader."""
    plain = "".join(c.lower() if c.isascii() else c for c in line)
    return not reader.words.isdisjoint(re.findall(r"[a-z_\x80-\U0010ffff]+", plain))


def read_lines(reader: type[LogReader], text: str, *, every: bool = False) -> list[Event]:
    """Return a reader's events of the lines that are offered to it, or of every line."""
    made = reader()
    return [
        event
        for number, line in enumerate(text.split("\n"), 1)
        if every or is_offered(reader, line)
        for event in made.line(_ESCAPES.sub("", line), number)
    ]
