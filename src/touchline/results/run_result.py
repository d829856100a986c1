"""Results of one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from touchline.core.finding import Note
from touchline.core.levels import Level
from touchline.core.quantity import NO_EVIDENCE, Measured, Missing
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.data.scores import (
    CheckpointInfo,
    EvaluationRecord,
)
from touchline.experiment.runs import ControlKind, Phase, RunKind
from touchline.history.record import PackingFacts
from touchline.statistics.conclusions import Proportion, ScoreDifference
from touchline.statistics.labels import LabelReport

NOT_EVALUATED = Missing(missing="not evaluated")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPoint:
    """Loss at one step."""

    step: int
    """Optimizer step, from 1; 0 is before the first."""
    loss: float
    """Mean over label tokens, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCurves:
    """Learning rate by optimizer step."""

    steps: tuple[int, ...]
    """Number of each step, from 1."""
    learning_rate: tuple[float, ...]
    """Learning rate of its update."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptResult:
    """Attempt at a training."""

    job_id: str
    """Job id."""
    restart: int
    """Number of earlier starts of that job."""
    state: JobState
    """Final state, or RUNNING."""
    reason: str
    """Reason of the end in words."""
    started_unix: float
    """Start, in seconds since 1970."""
    seconds: Measured
    """Duration."""
    superseded: bool
    """Whether the run has been re-planned since, which moved the attempt's files aside."""


Setting = str | int | float | bool | None
"""Value of a run setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """Measurements of one epoch."""

    epoch: int
    """Epoch, counted from 0."""
    training_time_minutes: float
    """Wall-clock time of its steps."""
    mean_train_loss: float
    """Mean over its steps, in nats."""
    validation_loss: float | None
    """Last validation loss of the epoch, in nats; None if there was no validation."""
    peak_memory: Measured = NO_EVIDENCE
    """Peak from the first step of the attempt to the end of the epoch, in GiB; its kind is that of the step rows."""


ON_CPU = Missing(missing="trained on a CPU")
NOT_MEASURED = Missing(missing="not measured")
NO_PACKING = PackingFacts(
    packed=NOT_MEASURED, examples=NOT_MEASURED, sequences=NOT_MEASURED, density=NOT_MEASURED, efficiency=NOT_MEASURED
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFigures:
    """Figures of a training by any trainer."""

    train_seconds: Measured
    """Wall-clock time of all training steps."""
    validation_seconds: Measured
    """Wall-clock time of the validations."""
    saving_seconds: Measured = NOT_MEASURED
    """Wall-clock time of all savings within the training."""
    final_train_loss: Measured
    """Training loss over the last steps."""
    final_val_loss: Measured
    """Last validation loss."""
    tokens_per_second: Measured
    """Non-padding tokens per second of training."""
    examples_per_second: Measured = NOT_MEASURED
    """Examples, not packed sequences, per second of training."""
    seconds_per_step: Measured = NOT_MEASURED
    """Median optimizer step after warm-up, without validation and saving."""
    peak_memory: Measured
    """Peak memory during steps."""
    mean_memory: Measured = NOT_MEASURED
    """Mean of the GPU memory in use while training."""
    gpu_utilization: Measured = NOT_MEASURED
    """Mean share of time in which the GPU was busy, in %."""
    data_wait: Measured = NOT_MEASURED
    """Share of its steps' time that a training waited for images, in %."""
    packing: PackingFacts = NO_PACKING
    """Packing of the training examples."""
    epochs: tuple[EpochMetrics, ...] = ()
    """Measurements per epoch; empty if the steps are not known."""
    device: Literal["cpu", "cuda"] | None = None
    """Kind of device that trained; None if no step has it."""
    cohort: tuple[str, ...] = ()
    """Runs that the last attempt trained next to this one, on the same base."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the training libraries; empty if none were recorded."""


NO_CURVES = Missing(missing="its log is not read for them")
"""Reason for missing curves of a run trained by another tool."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult(RunFigures):
    """All results of a run."""

    name: str
    """Run name."""
    kind: RunKind
    """Fine-tuned or control."""
    model: str
    """Base model."""
    levels: tuple[Level, ...]
    """Level of each factor."""
    seed: int
    """Seed."""
    status: RunStatus
    """Run status."""
    job_state: JobState | None
    """Job state from the executor; None if nothing was started."""
    outcome: TrainingOutcome
    """Training outcome from the files."""
    attempts: int
    """Number of attempts."""
    attempt_list: tuple[AttemptResult, ...] = ()
    """Attempts, oldest first."""
    job_id: str | None = None
    """Last job; None if none was started."""
    started: str | None = None
    """Start of the first attempt, ISO 8601."""
    completed: str | None = None
    """End of the last successful attempt, ISO 8601."""
    dataset: str = ""
    """Dataset path; empty if unknown."""
    settings: dict[str, Setting] = field(default_factory=dict)
    """Settings that affect the cost, under the keys of run_metrics.yaml."""
    steps_done: int | None
    """Optimizer steps done; None for a control."""
    steps_planned: int | None
    """Optimizer steps planned; None for a control."""
    exact_match: Proportion | None
    """Share of exactly correct test items; None for a custom task."""
    match: Proportion | None
    """Share correct after normalization; None for a custom task."""
    difference: ScoreDifference | None
    """Difference from its control on the primary metric."""
    evaluate_seconds: Measured
    """Wall-clock time of the evaluation."""
    sampled: dict[str, Measured] = field(default_factory=dict)
    """Resource usage of its attempts, sampled from outside; empty if no sampler can have been at work."""
    adapter_size: Measured
    """Size of the last adapter on disk."""
    checkpoints: tuple[CheckpointInfo, ...]
    """Checkpoints."""
    train_losses: tuple[LossPoint, ...]
    """Training loss by step."""
    validation_losses: tuple[LossPoint, ...]
    """Validation loss by step."""
    curves: StepCurves | Missing = NO_CURVES
    """Learning rate, gradient norm and speed by step, or the reason why they are missing."""
    evaluations: tuple[EvaluationRecord, ...]
    """Evaluations on the experiment's own task, oldest epoch first."""
    other_evaluations: tuple[EvaluationRecord, ...] = ()
    """Evaluations on further tasks."""
    earlier_evaluations: tuple[EvaluationRecord, ...] = ()
    """Evaluations of the same weights under other settings (decoding, items, task). They are kept, and no comparison
    uses them.
    """
    metric: str | None = None
    """Primary metric: `exact match`, `accuracy` or a score of a custom task; None if not evaluated."""
    score: Measured = NOT_EVALUATED
    """Mean of the primary metric over the test items at the last checkpoint, with its interval."""
    set_scores: dict[str, Measured] = field(default_factory=dict)
    """The same on each test set with a name, the one of `score` first; empty without names."""
    labels: LabelReport | None = None
    """Precision, recall and confusions per label of a classification."""
    control: ControlKind | None = None
    """Kind of control; None for other runs."""
    phase: Phase | None = None
    """Phase of a strategy; None without one, and for controls."""
    cut_after_step: int | None = None
    """Step after which explore cut the run: it has no final result and enters no test. None if it was not cut."""
    notes: tuple[Note, ...]
    """Failures, refusals and omissions; strings in JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetRow:
    """Runs that differ in their seed alone, or one control."""

    training_set: str
    """Training set, as its level is written; of a control what it is."""
    condition: tuple[Level, ...]
    """Its levels of the other factors."""
    model: str
    """Base model."""
    control: ControlKind | None
    """Kind of control; None for other runs."""
    runs: tuple[str, ...]
    """The runs, one per seed."""
    scores: dict[str, Measured]
    """Mean over the seeds on each test set. `method` has how many seeds, and the mean of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetMatrix:
    """Means of every condition on every test set."""

    factor: str | None
    """Factor whose levels are training sets; None if all runs have one training set."""
    test_sets: tuple[str, ...]
    """Names of the test sets, the one of the claims first."""
    items: dict[str, int]
    """Number of items of each that every run answered; a set without evaluations is left out."""
    metric: str
    """What the scores are."""
    share: bool
    """Whether all scores are from 0 to 1, and shown as percentages."""
    rows: tuple[SetRow, ...]
    """Rows by training set, then by the other factors; controls last."""
