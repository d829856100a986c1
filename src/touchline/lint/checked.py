"""Finding in the `--json` output of commands: flat, with the same seven keys everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.finding import Finding, Severity


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingRow:
    """Finding as a flat row."""

    code: str
    """Stable code: two letters for the subject and three digits."""
    severity: Severity
    """`error`, `warning` or `info`."""
    path: str | None
    """File, as the user named it; null if the finding concerns no file."""
    line: int | None
    """Line, from 1; null if the finding concerns the whole file."""
    column: int | None
    """Column, from 1."""
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
