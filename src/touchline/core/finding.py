"""Finding: a problem of an input with its place, the expected value and a hint."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Severity of a finding; only an error stops the command."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A place in a file; lines and columns count from 1."""

    path: str
    """The file, as the user named it."""
    line: int | None = None
    """The line, from 1; none when the file as a whole is meant."""
    column: int | None = None
    """The column, from 1."""

    def __str__(self) -> str:
        parts = [self.path, *(str(part) for part in (self.line, self.column) if part is not None)]
        return ":".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """Replacement of one line of a file."""

    path: str
    """The file, as the user named it."""
    line: int
    """The line, from 1."""
    old: str
    """Current text of the line, without its newline; the edit is invalid if it differs."""
    new: str | None
    """New text of the line; None deletes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Problem of an input."""

    code: str
    """A stable code: two letters for the subject and three digits."""
    severity: Severity
    """Whether it stops the command."""
    subject: str
    """The key, run, model or file it is about."""
    message: str
    """Problem and expected value."""
    where: Location | None = None
    """Place of the problem."""
    hint: str | None = None
    """Command to type, or text to write instead."""
    edits: tuple[Edit, ...] = ()
    """Safe fix, if there is one: `touchline check --fix` makes these edits."""
    allowed: bool = False
    """Whether it is an error that the user allowed; its severity is INFO then."""
    allowable: bool = True
    """Whether `allow` applies to it; not where nothing can be planned until it is fixed."""
    runs: tuple[str, ...] = ()
    """Runs it is about; empty if it is about the whole file."""
