"""Inputs of a report, before any conclusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from touchline.core.finding import Severity
from touchline.data.scores import AskedItem
from touchline.experiment.plan import Plan
from touchline.results.run_result import RunResult, SetMatrix
from touchline.results.verification_types import Verification
from touchline.statistics.conclusions import Analysis
from touchline.strategy.state import StrategyStatus
from touchline.strategy.strategy import Strategy


class IssueRole(StrEnum):
    """Relation of an issue to others of the same run: a cause replaces its bare consequence."""

    NO_SCORE = "no score"
    EXPLAINS_NO_SCORE = "explains no score"
    NOT_DONE = "not done"
    EXPLAINS_NOT_DONE = "explains not done"


@dataclass(frozen=True, kw_only=True, slots=True)
class Issue:
    """Something that failed, is missing, or is not as planned."""

    weight: Severity
    """Severity."""
    subject: str
    """Run name, or `experiment`."""
    title: str
    """Short title: `failed exit, complete training`, `attempt ended by TIMEOUT`, `no evaluation`."""
    text: str
    """Event, its cause if known, and its consequence for the results."""
    lines: tuple[str, ...] = ()
    """Log lines as evidence."""
    where: str | None = None
    """`file:line`."""
    role: IssueRole | None = None
    """Relation to other issues of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInput:
    """Dataset or model used by the runs."""

    kind: str
    """`dataset` or `base model`."""
    name: str
    """Name or path."""
    facts: tuple[tuple[str, str], ...]
    """(label, value): splits and sizes, dtype, hash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """Inputs of a report, before any conclusion."""

    experiment: str
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan or of the first log; empty if unknown."""
    root: str
    """Folder as the user gave it, for commands."""
    plan: Plan | None
    runs: tuple[RunResult, ...]
    factors: dict[str, tuple[str, ...]]
    verification: Verification
    files: dict[str, tuple[tuple[str, str], ...]]
    """(label, path relative to the folder) per run."""
    issues: tuple[Issue, ...]
    """Issues that require opening files: log lines, exits, unreadable files."""
    sources: tuple[ReportInput, ...]
    definition: str = ""
    asked: dict[str, dict[str, AskedItem]] = field(default_factory=dict)
    """Prompted items by `EvaluationRecord.asked_key` and item id."""
    strategy: Strategy | None = None
    """Strategy with its decisions; `plan` has only the runs that it has started. None without a plan."""


RESULTS_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsAnswer:
    """Results of an experiment with their statistical tests."""

    schema_version: int = RESULTS_SCHEMA_VERSION
    """Format version."""
    runs: tuple[RunResult, ...]
    """Runs, in plan order."""
    analyses: tuple[Analysis, ...]
    """Analyses of the report: one per task and score, the experiment's own first."""
    strategy: StrategyStatus | None = None
    """How far the strategy is, with its decisions; None without one."""
    test_sets: SetMatrix | None = None
    """Means of every condition on every test set; None if test sets have no names."""
