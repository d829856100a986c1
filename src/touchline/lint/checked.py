"""A finding as commands give it out with `--json`: flat, with the same seven keys everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.finding import Finding, Severity


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingRow:
    """One finding."""

    code: str
    """A stable code: two letters for the subject and three digits."""
    severity: Severity
    """`error`, `warning` or `info`."""
    path: str | None
    """The file, as the user named it; null when it is about no file."""
    line: int | None
    """The line, from 1; null when the file as a whole is meant."""
    column: int | None
    """The column, from 1."""
    message: str
    """Problem, and the expected value."""
    hint: str | None
    """Suggested command or change."""


def row_of(finding: Finding) -> FindingRow:
    """Convert a finding to a row."""
    where = finding.where
    return FindingRow(
        code=finding.code,
        severity=finding.severity,
        path=None if where is None else where.path,
        line=None if where is None else where.line,
        column=None if where is None else where.column,
        message=finding.message,
        hint=finding.hint,
    )
