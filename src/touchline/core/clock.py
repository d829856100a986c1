"""Time as something that is given: what waits for a scheduler can then be tried in simulated time."""

from __future__ import annotations

import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """Source of the time that can also wait."""

    def now(self) -> float:
        """Return seconds since 1970. The value may jump in either direction."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment. The value never jumps and is local to the process."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let that many seconds pass."""
        ...


class RealClock:
    """This machine's time."""

    def now(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def today() -> str:
    """Return today's ISO date; the only clock of planning."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()
