"""Findings of a check: the flat rows of `--json`, the selection by code, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from touchline.core.finding import Finding, Severity
from touchline.experiment.requests import CheckRequest


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


def chosen(findings: Iterable[Finding], request: CheckRequest) -> Iterator[Finding]:
    """Return each selected finding once, allowed ones as information."""
    seen: set[tuple[str, str, str]] = set()
    for finding in findings:
        key = (finding.code, str(finding.where), finding.message)
        wanted = not request.select or finding.code.startswith(request.select)
        if key in seen or not wanted or (request.ignore and finding.code.startswith(request.ignore)):
            continue
        seen.add(key)
        allowed = finding.allowable and request.allow and finding.code.startswith(request.allow)
        if allowed and finding.severity is Severity.ERROR:
            yield replace(finding, severity=Severity.INFO, message=f"{finding.message} (allowed)", allowed=True)
        else:
            yield finding


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings by file, line and column."""

    def key(finding: Finding) -> tuple[str, int, int, str]:
        where = finding.where
        return (
            ("", 0, 0, finding.code)
            if where is None
            else (where.path, where.line or 0, where.column or 0, finding.code)
        )

    return sorted(findings, key=key)
