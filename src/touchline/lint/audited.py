"""Report of `touchline data audit`, as its `--json` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.lint.checked import FindingRow

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
