"""Findings of a check and of `data audit` as their `--json` prints them, the selection by code, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Missing, Quantity
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


AUDIT_SCHEMA_VERSION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """Share of the rows that an answer without a model gets right."""

    score: Quantity | Missing
    """The share with Wilson's interval, or the reason why it is missing."""
    examples: int = 0
    """Number of rows that it was computed on."""
    answer: str | None = None
    """Answer given to all rows, if there is only one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """Answers without a model. An evaluation is informative only above these scores."""

    majority: Baseline
    """Most frequent answer, given to every row."""
    majority_per_question: Baseline
    """Most frequent answer of each kind of question; kinds with less than five rows are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedSplit:
    """Split of an audited dataset."""

    name: str
    """`train`, `validation`, `test`, or `all` in a file without splits."""
    path: str
    """File of the split."""
    examples: int
    """Number of rows."""
    distinct_answers: int
    """Number of different answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """Answer with its frequency."""

    label: str
    """Text of the answer; long ones are truncated."""
    counts: dict[str, int]
    """Counts by split."""
    share: float
    """Share of the rows with an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataAudit:
    """Audit of a dataset, with its findings."""

    schema_version: int = AUDIT_SCHEMA_VERSION
    """Version of this format."""
    path: str
    """File or folder, as the user named it."""
    format: str
    """`json`, `jsonl`, `csv`, `parquet`; several are separated by commas."""
    columns: str
    """Meaning of the columns."""
    scored_split: str
    """Split of the baselines."""
    splits: tuple[AuditedSplit, ...]
    """Splits of the dataset."""
    labels: tuple[LabelCount, ...]
    """Most frequent answers."""
    distinct_answers: int
    """Number of different answers in all splits."""
    baselines: Baselines | None
    """Baselines without a model; null if there are no rows."""
    findings: tuple[FindingRow, ...]
    """Findings, errors first."""

    @property
    def failed(self) -> bool:
        """Return True if an error was found."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)
