"""Time as something that is given: what waits for a scheduler can then be tried in simulated time."""

from __future__ import annotations

import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and lets it pass."""

    def now(self) -> float:
        """Seconds since 1970. It may jump, in either direction."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; it never jumps, and means nothing to another process."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let that many seconds pass."""
        ...


class RealClock:
    """This machine's time."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def today() -> str:
    """ISO date of today; the only place where planning asks a clock."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()
