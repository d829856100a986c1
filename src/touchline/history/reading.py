"""Words that logs state, the lines that prove them, and the segments of a run."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Missing
from touchline.core.status import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedText:
    """Something that is not a number, and where it was read."""

    value: str
    """The word."""
    where: str | None = None
    """`file:line` or the file that it was read from."""
    method: str | None = None
    """Method, if it was not read off directly."""


OptionalText = SourcedText | Missing
"""A word, or why there is none."""

_BY_CAUSE = "failed: "
"""Prefix of the value of an exit where a line gives the cause and none the exit code."""


def exit_by_cause(cause: str, where: str) -> SourcedText:
    """Return the exit of a process of which only the cause of its end is known."""
    return SourcedText(value=_BY_CAUSE + cause, where=where)


def exit_code(exit_word: SourcedText) -> int | None:
    """Return the exit code. None where only the cause is known."""
    return int(exit_word.value) if exit_word.value.isdecimal() else None


def exit_cause(exit_word: SourcedText) -> str:
    """Return the line that gives the cause."""
    return exit_word.value.removeprefix(_BY_CAUSE)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceLine:
    """A line that proves something."""

    where: str
    """`file:line`."""
    text: str
    """The line, at most 300 characters, secrets redacted."""
    says: str
    """Statement that it proves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Attempt, resume or restart within a run's files."""

    where: str
    """`file:first-last`."""
    begins: str
    """`fresh`, `resumed`, `restarted`, `another run`."""
    first_step: int | None
    """Optimizer steps done before it; None if no line shows it."""
    last_step: int | None
    """Optimizer steps done at its end."""
    outcome: Outcome
    """Outcome of the segment."""
