"""Results of one run."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.levels import Level
from touchline.core.notes import Note
from touchline.core.quantity import Measured, Missing
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.data.scores import (
    CheckpointInfo,
    EvaluationRecord,
)
from touchline.spec.runs import ControlKind, RunKind
from touchline.statistics.conclusions import Difference, Proportion
from touchline.statistics.labels import LabelReport

NOT_EVALUATED = Missing(missing="not evaluated")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPoint:
    """A loss at a step."""

    step: int
    """Optimizer step, from 1; 0 is before the first."""
    loss: float
    """Mean over the target tokens, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCurves:
    """Measurements of each optimizer step, side by side."""

    steps: tuple[int, ...]
    """Number of each step, from 1."""
    learning_rate: tuple[float, ...]
    """Learning rate of its update."""
    gradient_norm: tuple[float, ...]
    """Norm of its gradient before clipping."""
    tokens_per_second: tuple[float, ...]
    """Non-padding tokens over its wall-clock time, all devices together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptResult:
    """One attempt at a training."""

    job_id: str
    """Its job."""
    restart: int
    """How often that job had been started before."""
    state: JobState
    """How it ended, or RUNNING."""
    reason: str
    """How, in words."""
    started_unix: float
    """When it began, in seconds since 1970."""
    seconds: Measured
    """How long it lasted."""
    superseded: bool
    """Whether the run has been planned again since, so that what it made was moved aside."""


NO_CURVES = Missing(missing="its log is not read for them")
"""Instead of curves, of a run that another tool trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """Everything that is known of a run."""

    name: str
    """The run."""
    kind: RunKind
    """Fine-tuned, or a control."""
    model: str
    """Its base model."""
    levels: tuple[Level, ...]
    """Its level of each factor."""
    seed: int
    """Its seed."""
    status: RunStatus
    """How it stands."""
    job_state: JobState | None
    """The executor's word; none when nothing was started."""
    outcome: TrainingOutcome
    """What the artefacts say."""
    attempts: int
    """How often it was started."""
    attempt_list: tuple[AttemptResult, ...] = ()
    """Each of them, oldest first."""
    steps_done: int | None
    """Optimizer steps done; none for a control."""
    steps_planned: int | None
    """Optimizer steps planned; none for a control."""
    exact_match: Proportion | None
    """Share of the test items that are exactly right; none where the task is a file."""
    match: Proportion | None
    """Share that is right after normalisation; none where the task is a file."""
    difference: Difference | None
    """Against its control, on the primary metric."""
    train_seconds: Measured
    """Wall time of all steps of the training."""
    validation_seconds: Measured
    """Wall time of the validations in between."""
    evaluate_seconds: Measured
    """Wall time of the evaluation."""
    final_train_loss: Measured
    """Training loss over the last steps."""
    final_val_loss: Measured
    """Last validation loss."""
    tokens_per_second: Measured
    """Real tokens per second of training."""
    peak_memory: Measured
    """Peak memory while steps ran."""
    adapter_size: Measured
    """Size of the last adapter on disk."""
    checkpoints: tuple[CheckpointInfo, ...]
    """Its exports."""
    train_losses: tuple[LossPoint, ...]
    """Training loss by step."""
    validation_losses: tuple[LossPoint, ...]
    """Validation loss by step."""
    curves: StepCurves | Missing = NO_CURVES
    """Learning rate, gradient norm and speed by step, or why they are not there."""
    evaluations: tuple[EvaluationRecord, ...]
    """Its evaluations on the experiment's own task, oldest epoch first."""
    other_evaluations: tuple[EvaluationRecord, ...] = ()
    """Its evaluations on further tasks."""
    earlier_evaluations: tuple[EvaluationRecord, ...] = ()
    """Evaluations of the same weights by other settings: other decoding, other items, another task. They are kept, and
    no comparison uses them."""
    metric: str | None = None
    """The primary metric, `exact match`, `accuracy` or a score of the task's file; none where nothing is evaluated."""
    score: Measured = NOT_EVALUATED
    """The primary metric's mean over the test items at the last checkpoint, with its interval."""
    labels: LabelReport | None = None
    """Of a classification: precision and recall of each label, and what was taken for what."""
    control: ControlKind | None = None
    """Which control it is; none for what the experiment asks about."""
    notes: tuple[Note, ...]
    """Failures, refusals and omissions; strings in JSON."""
