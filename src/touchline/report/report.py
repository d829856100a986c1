"""Report as data: the one object behind RESULTS.md, report.html and `touchline report --json`. Its texts are plain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from touchline.core.levels import settings_words
from touchline.core.quantity import Measured, Quantity
from touchline.core.table import Section
from touchline.core.units import device_hours
from touchline.data.scores import AskedItem
from touchline.experiment.runs import Phase
from touchline.plan.settings import RunSetting
from touchline.report.facts import AnswerCounts, RunFacts, scale_or_share
from touchline.results.report_inputs import Issue, ReportInput
from touchline.results.run_result import RunResult, SetMatrix
from touchline.results.status_files import RunMetrics
from touchline.results.verification_types import Verification
from touchline.statistics.conclusions import Analysis, Conclusion, NextStep, Statement
from touchline.strategy.report import StrategyReport
from touchline.strategy.report_sections import strategy_section


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Command of the appendix."""

    group: str
    """`View`, `Evaluate`, `Retrain`, `Sync`."""
    text: str
    """Effect of the command."""
    command: str
    """Command line, quoted for a shell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Answer to the experiment's question."""

    topic: str
    """Factor of the answer, or `control`."""
    text: str
    """Sentence of at most 15 words."""
    details: tuple[str, ...] = ()
    """Sentences with the main numbers, then the limits."""
    shown: Conclusion | None = None
    """Conclusion of the test; None without a test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Difference with its test, and what would settle it."""

    topic: str
    """Factor, `control` or `strategy`."""
    text: str
    """Both sides: `rank 64 against rank 4`."""
    estimate: Measured
    """Difference of the mean scores with its interval, as in `analyses`."""
    is_share: bool
    """Whether the score is a share, shown in points."""
    p: Measured
    """p value that decides, after Holm."""
    verdict: str
    """`established: higher`, `not established`, `tie, not established`."""
    shown: Conclusion
    """Conclusion of the test."""
    needed: str = ""
    """What would establish the difference; empty if it is established."""
    runs: tuple[str, ...] = ()
    """Runs of the difference, if it is one of runs against their control."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateRow:
    """Predicted and measured value of a run."""

    run: str
    """Name of the run."""
    quantity: str
    """`training`, `evaluation`, `peak memory`, `disk`, `seconds per step`."""
    predicted: Measured
    """Prediction of the plan, with its interval."""
    measured: Measured
    """Measured value."""
    inside: bool | None
    """Whether the interval contains the measured value; None if one of the two is missing or of another kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingRow:
    """Packing of one run's examples."""

    run: str
    """Name of the run."""
    packed: str
    """`yes`, `no`, or `n/a (reason)`."""
    density: Measured
    """Examples per sequence."""
    efficiency: Measured
    """Share of the computed positions that hold a token, in %."""
    examples_per_second: Measured
    """Training throughput in examples per second."""
    peak_memory: Measured
    """Peak memory, with its kind."""
    reason: str
    """Reason why it was packed or not, from the plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Content of a report."""

    ANSWER_VERSION: ClassVar[int] = 2
    """`schema_version` of its `--json`: 2 has `answer`, `claims` and `remarks` in place of `headline` and
    `findings`."""

    experiment: str
    """Name of the experiment."""
    question: str
    """Question of the experiment; empty if none was given."""
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan, or of the first log; empty when unknown."""
    design: str
    """Design in one line; empty for runs that touchline did not plan."""
    task: str
    """Task, or `n/a (reason)`."""
    decoding: str
    """Decoding settings, or `n/a (reason)`."""
    answer: Answer
    """Answer to the question."""
    completed: int
    """Number of complete runs."""
    device_hours: Measured
    """Measured device-hours of all runs."""
    device_hours_planned: Measured
    """Predicted device-hours."""
    runs: tuple[RunResult, ...]
    """Results, in the plan's order."""
    metrics: tuple[RunMetrics, ...]
    """Metrics of each run as `collect` writes them, in the same order."""
    facts: tuple[RunFacts, ...]
    """Further facts of each run, in the same order."""
    factors: dict[str, tuple[str, ...]]
    """Factors and their levels."""
    analyses: tuple[Analysis, ...]
    """Analyses, one per task and score, the experiment's own first; empty if nothing was evaluated."""
    answers: tuple[AnswerCounts, ...]
    """Counts of suspicious answers."""
    verification: Verification
    """Verified checkpoints and their sizes."""
    claims: tuple[Claim, ...]
    """Every difference with its test; those of the experiment's own score first."""
    remarks: tuple[Statement, ...]
    """What limits the claims, by topic."""
    packing: tuple[PackingRow, ...]
    """Packing by run; empty for controls."""
    packing_advice: tuple[str, ...]
    """Computed packing advice for the next plan."""
    estimates: tuple[EstimateRow, ...]
    """Estimates against actual values."""
    issues: tuple[Issue, ...]
    """Issues, the most severe first."""
    next_steps: tuple[NextStep, ...]
    """Next steps, the most useful first."""
    commands: tuple[Command, ...]
    """Commands of the appendix."""
    sources: tuple[ReportInput, ...]
    """Datasets and models."""
    asked: dict[str, dict[str, AskedItem]] = field(default_factory=dict)
    """Items as asked, by id, by `EvaluationRecord.asked_key`."""
    definition: str = ""
    """Text of experiment.yaml; empty for runs that touchline did not plan."""
    compared: str = ""
    """Description of the comparison: the levels of each factor, the seeds, the controls."""
    device: str = "device"
    """Name of the devices that hours are counted of, such as `GPU`; `device` if unknown."""
    settings: tuple[RunSetting, ...] = ()
    """Settings of every run, given or default; for other trainers' runs, those in their files."""
    strategy: StrategyReport | None = None
    """Strategy with its decisions; None without one."""
    test_sets: SetMatrix | None = None
    """Means of every condition on every test set; None if test sets have no names."""
    provenance: tuple[tuple[str, str], ...] = ()
    """(name, value) of versions, machine, hashes and revisions that the report is based on."""

    @property
    def predicted_cost(self) -> str:
        """Return `predicted 2.7 min (1.7 to 4.6)`, in the plan's words."""
        said = self.device_hours_planned
        without = "" if self.strategy is None else f" without {self.strategy.stopping}"
        note = f", {said.method}" if isinstance(said, Quantity) and said.method else ""
        return f"predicted{without} {device_hours(said)}{note}"

    def strategy_section(self) -> Section | None:
        """Return cuts, looks and cost of a strategy. None without one."""
        if self.strategy is None:
            return None
        words = {run.name: settings_words(run.levels) for run in self.runs if run.phase is Phase.EXPLORE}
        explored = {name: name if text == "-" else text for name, text in words.items()}
        return strategy_section(self.strategy, explored, scale_or_share(self.analyses))

    def strategy_cards(self) -> list[tuple[str, str]] | None:
        """Return the figures of a strategy with their labels. None without one."""
        return None if self.strategy is None else list(self.strategy.cards(scale_or_share(self.analyses)))
