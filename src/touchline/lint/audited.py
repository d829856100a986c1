"""Report of `touchline data audit`, as its `--json` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.finding import Severity
from touchline.core.quantity import Measured
from touchline.lint.checked import FindingRow

AUDIT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """Scores of model-free answers."""

    score: Measured
    """Share that the scorer calls right, with Wilson's interval; missing with the reason."""
    examples: int = 0
    """Rows that it was computed on."""
    answer: str | None = None
    """The one answer that was given to all rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """Answers without a model: an evaluation says something only above these."""

    majority: Baseline
    """The answer that is most frequent, given to every row."""
    majority_per_question: Baseline
    """Of each kind of question its most frequent answer; rows of questions with less than five rows left out."""
    empty: Baseline
    """The empty text."""
    shuffled: Baseline
    """Answers of other rows."""
    first_candidate: Baseline
    """The first of the allowed answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Characters of a text, over the rows of a split."""

    least: int
    """The shortest."""
    median: int
    """The median."""
    p95: int
    """95% are at most as long."""
    most: int
    """The longest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedSplit:
    """One split."""

    name: str
    """`train`, `validation`, `test`, or `all` in a file without splits."""
    path: str
    """Its file."""
    examples: int
    """Rows."""
    distinct_answers: int
    """Different answers."""
    prompt_characters: Lengths | None
    """Lengths of prompts; null when there are no rows."""
    answer_characters: Lengths | None
    """Lengths of answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """One answer and how often it occurs."""

    label: str
    """The answer; long ones are cut."""
    counts: dict[str, int]
    """By split."""
    share: float
    """Of all rows with an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataAudit:
    """A dataset, and what is wrong with it."""

    schema_version: int = AUDIT_SCHEMA_VERSION
    """Version of this form."""
    path: str
    """The file or folder, as it was named."""
    format: str
    """`json`, `jsonl`, `csv`, `parquet`; several with a comma between."""
    columns: str
    """Meaning of the columns."""
    scorer: str
    """Decides if an answer is right, in the baselines."""
    scored_split: str
    """The split that the baselines are of."""
    splits: tuple[AuditedSplit, ...]
    """The splits."""
    labels: tuple[LabelCount, ...]
    """The most frequent answers."""
    distinct_answers: int
    """Different answers in all splits."""
    answer_entropy_bits: float
    """Entropy of the answers of all splits."""
    baselines: Baselines | None
    """Answers without a model; null when there are no rows."""
    findings: tuple[FindingRow, ...]
    """Findings, errors first."""

    @property
    def failed(self) -> bool:
        """Whether an error was found."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)
