"""Sentences that are computed from results, and the actions that they recommend."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.statistics.conclusions import Conclusion


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """Computed sentence, with its numbers and their source files."""

    topic: str
    """Heading of the sentence: `Against the control`, `train.lora.rank`, `Training efficiency`."""
    text: str
    """Sentence with its numbers and intervals; `not established` if that is the result."""
    shown: Conclusion | None = None
    """Conclusion of the test; None without a test."""
    where: tuple[str, ...] = ()
    """Source files of the numbers, relative to the experiment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextStep:
    """Recommended action, computed."""

    title: str
    """Short title: `Try rank 16`."""
    why: str
    """Numbers that justify it."""
    command: str | None = None
    """Command that does it, if there is one."""
