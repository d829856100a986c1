"""Progress lines of an evaluation on stderr, one per batch: `135M_rank4 epoch_0: 128/300`."""

from __future__ import annotations

import sys


class EvaluationProgress:
    """Counter of a job's answers; called from the engine's thread."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        """Add completed answers."""
        self._done = min(self._total, self._done + count)
        say(f"{self._name}: {self._done}/{self._total}")


def say(text: str) -> None:
    """Write one line to stderr immediately."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
