"""Inputs of a report, before any conclusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from touchline.core.finding import Severity
from touchline.core.quantity import Measured
from touchline.data.scores import AskedItem
from touchline.results.collected import RunMetrics
from touchline.results.run_result import RunResult
from touchline.results.verification_types import Verification
from touchline.spec.plan import Plan


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
class GeneralScore:
    """Score of lm-evaluation-harness, a measure of general ability."""

    run: str
    task: str
    """Task of the harness."""
    metric: str
    score: Measured
    """Score with an interval from the harness's standard error."""
    change: Measured
    """Change from the run's control."""
    higher_is_better: bool | None = None
    """Which way it counts; none where the harness does not tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """What a report is made from: everything that was read, before anything is concluded."""

    experiment: str
    """Its name."""
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan, or of the first log; empty when unknown."""
    root: str
    """The folder as the user gave it, for commands."""
    plan: Plan | None
    """The plan; none for run folders that touchline did not make."""
    runs: tuple[RunResult, ...]
    """The results."""
    metrics: tuple[RunMetrics, ...]
    """What `collect` writes of each, in the same order."""
    factors: dict[str, tuple[str, ...]]
    """What varies, and its levels: from the plan, or from what was found in configs and names."""
    datasets: dict[str, str]
    """Dataset of each run, by its name."""
    verification: Verification
    """The checkpoints."""
    general: tuple[GeneralScore, ...]
    """Empty where general ability was not looked at."""
    files: dict[str, tuple[tuple[str, str], ...]]
    """By run: (what, path relative to the folder)."""
    issues: tuple[Issue, ...]
    """What only who read the files can tell: lines of logs, exits, files that could not be read."""
    sources: tuple[ReportInput, ...]
    """Datasets and models, as far as they are known."""
    definition: str = ""
    """experiment.yaml as it was written; empty for runs that touchline did not plan."""
    description: str = ""
    """What a README says of runs that touchline did not plan, as a quote; empty where there is none."""
    asked: dict[str, dict[str, AskedItem]] = field(default_factory=dict)
    """Items as asked, by id, by `EvaluationRecord.asked_key`."""
