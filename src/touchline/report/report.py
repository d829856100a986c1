"""The report as data: RESULTS.md, report.html and `touchline report --json` are made from this one object.

Texts here are plain; who renders them escapes them. Numbers are `Measured`: absent is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from touchline.core.quantity import Measured
from touchline.data.scores import AskedItem
from touchline.plan.settings_table import RunSetting
from touchline.results.collected import RunMetrics
from touchline.results.report_inputs import GeneralScore, Issue, ReportInput
from touchline.results.run_result import RunResult
from touchline.results.verification_types import Verification
from touchline.statistics.conclusions import Analysis, Conclusion


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A computed sentence, with the numbers in it and the files that they come from."""

    topic: str
    """Heading it stands under: `Against the control`, `train.lora.rank`, `Training efficiency`."""
    text: str
    """The sentence, with its numbers and intervals; `not established` where it is so."""
    shown: Conclusion | None = None
    """What the test behind it allows; none where no test is behind it."""
    where: tuple[str, ...] = ()
    """Files that its numbers come from, relative to the experiment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextStep:
    """Something to do next, computed."""

    title: str
    """In a few words: `Try rank 16`."""
    why: str
    """The numbers that ask for it."""
    command: str | None = None
    """What to type, where one command does it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command of the appendix."""

    group: str
    """`View`, `Evaluate`, `Retrain`, `Sync`."""
    text: str
    """What it does."""
    command: str
    """What to type, quoted for a shell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateRow:
    """What the plan said of a run and what was measured."""

    run: str
    """The run."""
    quantity: str
    """`training`, `evaluation`, `peak memory`, `disk`, `seconds per step`."""
    predicted: Measured
    """As the plan had it, with its interval."""
    measured: Measured
    """As it was."""
    inside: bool | None
    """Whether the interval held it; none where one of the two is missing or of another kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingRow:
    """How one run's examples lay in rows."""

    run: str
    """The run."""
    packed: str
    """`yes`, `no`, or `n/a (reason)`."""
    density: Measured
    """Examples a row."""
    efficiency: Measured
    """Share of the computed positions that hold a token, in %."""
    examples_per_second: Measured
    """Examples a second of training."""
    peak_memory: Measured
    """With its kind."""
    reason: str
    """Why it was packed or not, as the plan had it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What the report says of a run beside its result."""

    run: str
    """The run."""
    settings: str
    """Its levels in words: `rank 64, learning rate 2e-4`; `-` when nothing varies."""
    gpus: int
    """Devices that it trained on."""
    device_hours: Measured
    """Duration of all attempts and evaluations times devices, in h."""
    tokens_per_second_per_gpu: Measured
    """With its token unit; of a processor it is per process."""
    control: str | None
    """Name of its control; none when it has none or is one."""
    files: tuple[tuple[str, str], ...]
    """(what, path relative to the experiment): where its numbers can be looked up."""
    is_pareto: bool
    """Whether no other run of its base model is at least as good for less device time."""
    notes: tuple[str, ...] = ()
    """Flags: overfitting, saturation, empty outputs, answers cut at the token limit, errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounts:
    """How the answers of one evaluation look, whatever their score."""

    run: str
    """The run."""
    checkpoint: str
    """The checkpoint."""
    task: str
    """The task."""
    answers: int
    """Answers, repeats counted."""
    empty: int
    """Of them empty."""
    cut: int | None
    """Of them cut at the token limit; none where it was not recorded."""
    errors: int
    """Of them not generated; they count as wrong."""
    parsed: int | None
    """Of them such that an answer could be read from them; none where the task does not parse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that a report says."""

    experiment: str
    """Its name."""
    question: str
    """What it was to answer; empty when nobody wrote it."""
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan, or of the first log; empty when unknown."""
    design: str
    """The design in a line."""
    task: str
    """The task, or `n/a (reason)`."""
    decoding: str
    """How answers were generated, or `n/a (reason)`."""
    headline: tuple[Statement, ...]
    """The bottom line: two or three of the findings."""
    completed: int
    """Runs whose work is complete."""
    device_hours: Measured
    """Measured, all runs, in h."""
    device_hours_planned: Measured
    """Predicted, in h."""
    runs: tuple[RunResult, ...]
    """The results, in the plan's order."""
    metrics: tuple[RunMetrics, ...]
    """What `collect` writes of each, in the same order."""
    facts: tuple[RunFacts, ...]
    """What the report adds, in the same order."""
    factors: dict[str, tuple[str, ...]]
    """What varies, and its levels."""
    analyses: tuple[Analysis, ...]
    """One for each task and score; the experiment's own first. Empty when nothing is evaluated."""
    answers: tuple[AnswerCounts, ...]
    """How the answers look."""
    general: tuple[GeneralScore, ...]
    """Empty where general ability was not looked at."""
    verification: Verification
    """The checkpoints, and what they take."""
    findings: tuple[Statement, ...]
    """Key findings, by topic."""
    packing: tuple[PackingRow, ...]
    """By run; empty for controls."""
    packing_advice: tuple[str, ...]
    """What the next plan should do about packing, computed."""
    estimates: tuple[EstimateRow, ...]
    """Estimate against actual."""
    issues: tuple[Issue, ...]
    """Worst first."""
    next_steps: tuple[NextStep, ...]
    """Most useful first."""
    commands: tuple[Command, ...]
    """The appendix."""
    sources: tuple[ReportInput, ...]
    """Datasets and models."""
    asked: dict[str, dict[str, AskedItem]] = field(default_factory=dict)
    """Items as asked, by id, by `EvaluationRecord.asked_key`."""
    definition: str = ""
    """experiment.yaml as it was written; empty for runs that touchline did not plan."""
    compared: str = ""
    """What was compared: the levels of each factor, the seeds, the controls."""
    device: str = "device"
    """What hours are counted of: `GPU`, `processor`, or `device` where nobody told."""
    settings: tuple[RunSetting, ...] = ()
    """Every setting of every run, given or default; of other trainers' runs those that their files hold."""
    provenance: tuple[tuple[str, str], ...] = ()
    """(what, value): versions, machine, hashes and revisions that all of this rests on."""
