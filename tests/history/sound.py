"""What holds for the events of any text, however broken: they stand in its lines, and their numbers are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from touchline.core.observation import Event, Observation


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
