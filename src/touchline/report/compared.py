"""Several experiments beside each other: what differs in their settings, and what differs in what came out.

The first experiment is the one that the others are held against. Runs are matched by condition and seed, never by name
alone; scores are compared where both runs answered the same items, and refused with the reason everywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Measured
from touchline.core.status import RunStatus
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Comparison, FactorEffect


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One experiment, as far as comparing needs it."""

    label: str
    """What it is called here; unique among those compared."""
    root: str
    """Its folder, as the user gave it."""
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan, or of the first log; empty when unknown."""
    question: str
    """What it was to answer; empty when nobody wrote it."""
    runs: tuple[RunResult, ...]
    """Its results, in the plan's order."""
    settings: dict[str, dict[str, str]]
    """By run: its settings under their dotted keys, resolved, as text."""
    unread: tuple[str, ...] = ()
    """What could not be read, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSide:
    """One of the experiments, in a line."""

    label: str
    """What it is called here."""
    root: str
    """Its folder, as the user gave it."""
    origin: str
    """Who made it."""
    date: str
    """ISO date; empty when unknown."""
    question: str
    """What it was to answer; empty when nobody wrote it."""
    runs: int
    """Its runs, controls too."""
    evaluated: int
    """Runs with an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingRow:
    """A setting that is not the same everywhere."""

    key: str
    """Dotted key of experiment.yaml, or what else it is: `versions.torch`, `device`, `test split`."""
    values: tuple[tuple[str, ...] | None, ...]
    """By experiment: its values among the runs; none where nothing tells."""
    is_matched: bool
    """Whether runs are matched by it: it varies, and the experiments share some of its values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """One run of one experiment."""

    experiment: str
    """Label of the experiment."""
    run: str
    """The run."""
    status: RunStatus
    """How it stands."""
    checkpoint: str | None
    """What was evaluated last; none where nothing was."""
    task: str | None
    """On which task; none where nothing was evaluated."""
    score: Measured
    """Mean score on it, with its interval."""
    final_val_loss: Measured
    """Last validation loss; losses of other prompts or other data do not compare."""
    train_seconds: Measured
    """Wall time of its steps."""
    tokens_per_second: Measured
    """With its token unit."""
    peak_memory: Measured
    """With its kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionRow:
    """One condition and seed, in every experiment that has it."""

    condition: str
    """In words: `SmolLM2-135M-Instruct, rank 64, seed 1`."""
    runs: tuple[tuple[ComparedRun, ...], ...]
    """By experiment: its runs of this condition; several where the experiment varies what the others do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRuns:
    """Two runs of the same condition, compared on the same items."""

    condition: str
    """In words."""
    task: str
    """The task."""
    score: str
    """The score."""
    experiment: str
    """Label of the experiment that is asked about."""
    run: str
    """Its run."""
    reference: str
    """Label of the first experiment."""
    reference_run: str
    """Its run."""
    comparison: Comparison
    """What was found; `difference.control` is the reference's run."""
    evaluation_differs_in: tuple[str, ...]
    """What of prompt and decoding was not the same, so that the difference is theirs as well; empty when all was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotCompared:
    """Runs that match and are not compared."""

    condition: str
    """In words."""
    experiment: str
    """Label of the experiment that is asked about."""
    reason: str
    """Why, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentEffect:
    """One experiment against the first, averaged over the conditions that both have, training seeds as the unit."""

    experiment: str
    """Label of the experiment that is asked about."""
    task: str
    """The task."""
    score: str
    """The score."""
    effect: FactorEffect
    """Its factor is `experiment`; its one contrast is this experiment minus the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedExperiments:
    """The whole comparison."""

    schema_version: int = 1
    """Version of this form."""
    experiments: tuple[ComparedSide, ...]
    """The first is the reference."""
    settings: tuple[SettingRow, ...]
    """What differs, by key."""
    same_settings: int
    """Settings that are the same in all experiments that know them."""
    known_once: tuple[str, ...]
    """Settings that only one of the experiments tells."""
    rows: tuple[ConditionRow, ...]
    """Runs side by side."""
    pairs: tuple[PairedRuns, ...]
    """Paired differences; p values are adjusted over those of one task and one experiment."""
    refusals: tuple[NotCompared, ...]
    """What matches and is not compared."""
    effects: tuple[ExperimentEffect, ...]
    """What may be said of the experiments' difference as a whole."""
    notes: tuple[str, ...]
    """What a reader must know."""
