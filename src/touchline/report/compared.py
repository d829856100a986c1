"""Comparison of several experiments: differences in their settings and in their results.

The first experiment is the reference. Runs are matched by condition and seed, never by name alone. Scores are compared
if both runs answered the same items. Otherwise the comparison is refused with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Measured
from touchline.core.status import RunStatus
from touchline.core.table import Section
from touchline.core.units import plural
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Comparison, FactorEffect


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentSummary:
    """Experiment, as input of a comparison."""

    label: str
    """Label of the experiment; unique among those compared."""
    root: str
    """Folder, as the user gave it."""
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan, or of the first log; empty when unknown."""
    question: str
    """Question of the experiment; empty if none was given."""
    runs: tuple[RunResult, ...]
    """Results, in the plan's order."""
    settings: dict[str, dict[str, str]]
    """Resolved settings by run, as text by dotted key."""
    unread: tuple[str, ...] = ()
    """Descriptions of inputs that could not be read."""
    left_out: tuple[str, ...] = ()
    """Runs that a strategy cut: they have no final result to compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSide:
    """Summary of one experiment."""

    label: str
    """Label of the experiment."""
    root: str
    """Folder, as the user gave it."""
    origin: str
    """Tool that made the experiment."""
    date: str
    """ISO date; empty when unknown."""
    question: str
    """Question of the experiment; empty if none was given."""
    runs: int
    """Number of runs, controls included."""
    evaluated: int
    """Number of runs with an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingRow:
    """Setting that differs between experiments."""

    key: str
    """Dotted key of experiment.yaml, or another property: `versions.torch`, `device`, `test split`."""
    values: tuple[tuple[str, ...] | None, ...]
    """Values among the runs, by experiment; None if unknown."""
    is_matched: bool
    """Whether runs are matched by this setting: it varies, and the experiments share some of its values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """Run of one experiment."""

    experiment: str
    """Label of the experiment."""
    run: str
    """Name of the run."""
    status: RunStatus
    """Status of the run."""
    checkpoint: str | None
    """Last checkpoint that was evaluated; None if none was."""
    task: str | None
    """Task of the evaluation; None if nothing was evaluated."""
    score: Measured
    """Mean score on the task, with its interval."""
    final_val_loss: Measured
    """Last validation loss. Losses are comparable only with the same prompts and data."""
    train_seconds: Measured
    """Wall-clock time of the training steps."""
    tokens_per_second: Measured
    """Throughput, with its token unit."""
    peak_memory: Measured
    """Peak memory, with its kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionRow:
    """Condition and seed, in every experiment that has it."""

    condition: str
    """Condition as text: `SmolLM2-135M-Instruct, rank 64, seed 1`."""
    runs: tuple[tuple[ComparedRun, ...], ...]
    """Runs of this condition, by experiment; several if the experiment varies a setting that the others do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRuns:
    """Two runs of the same condition, compared on the same items."""

    condition: str
    """Condition as text."""
    task: str
    """Task of the comparison."""
    score: str
    """Score of the comparison."""
    experiment: str
    """Label of the compared experiment."""
    run: str
    """Run of the compared experiment."""
    reference: str
    """Label of the first experiment, the reference."""
    reference_run: str
    """Run of the reference."""
    comparison: Comparison
    """Result of the comparison; `difference.control` is the reference's run."""
    evaluation_differs_in: tuple[str, ...]
    """Prompt and decoding settings that differ and may explain the difference; empty if none differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotCompared:
    """Matching runs that are not compared."""

    condition: str
    """Condition as text."""
    experiment: str
    """Label of the compared experiment."""
    reason: str
    """Reason for not comparing them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentEffect:
    """Effect of one experiment against the first, averaged over shared conditions, with training seeds as the unit."""

    experiment: str
    """Label of the compared experiment."""
    task: str
    """Task of the comparison."""
    score: str
    """Score of the comparison."""
    effect: FactorEffect
    """Effect of the factor `experiment`. Its one contrast is this experiment minus the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedExperiments:
    """Comparison of all experiments."""

    schema_version: int = 1
    """Version of this format."""
    experiments: tuple[ComparedSide, ...]
    """Experiments; the first is the reference."""
    settings: tuple[SettingRow, ...]
    """Settings that differ, by key."""
    same_settings: int
    """Number of settings that are the same in all experiments that report them."""
    known_once: tuple[str, ...]
    """Settings that only one experiment reports."""
    rows: tuple[ConditionRow, ...]
    """Matched runs by condition."""
    pairs: tuple[PairedRuns, ...]
    """Paired differences; p values are adjusted over those of one task and one experiment."""
    refusals: tuple[NotCompared, ...]
    """Matching runs that are not compared."""
    effects: tuple[ExperimentEffect, ...]
    """Overall differences between the experiments."""
    notes: tuple[str, ...]
    """Limitations of the comparison."""

    def __repr__(self) -> str:
        first, *others = (side.label for side in self.experiments)
        return f"<comparison with {first!r} of {', '.join(map(repr, others))}: {plural(len(self.pairs), 'paired run')}>"

    def _repr_html_(self) -> str:
        from touchline.core.html import notebook_html
        from touchline.report.comparing.tables import sections

        return notebook_html("Comparison", (*sections(self), Section(title="Notes", lines=self.notes)))
