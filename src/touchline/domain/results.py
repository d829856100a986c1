"""What came out: measured figures, checkpoints and scores of one run. Absent is not zero."""

from __future__ import annotations

from dataclasses import dataclass, field

from touchline.domain.labels import LabelReport
from touchline.domain.quantity import Measured, Missing
from touchline.domain.runs import ControlKind, Level, RunKind
from touchline.domain.status import JobState, RunStatus, TrainingOutcome

NOT_EVALUATED = Missing(missing="not evaluated")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """k of n, with an interval."""

    k: int
    """How many."""
    n: int
    """Out of how many."""
    low: float
    """Lower end of the interval, 0 to 1."""
    high: float
    """Upper end of the interval, 0 to 1."""
    coverage: float = 0.95
    """How often such intervals hold the truth."""
    method: str = "Wilson"
    """How the interval was computed."""

    @property
    def value(self) -> float:
        """The share itself, 0 to 1."""
        return self.k / self.n


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A run against its control on the same items."""

    value: float
    """Difference of the shares, -1 to 1."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    gained: int
    """Items right in the run and wrong in the control."""
    lost: int
    """Items wrong in the run and right in the control."""
    p_value: float
    """Exact McNemar test, two-sided."""
    p_adjusted: float
    """The same after Holm over the family of all runs against their controls."""
    control: str
    """The control's name."""
    coverage: float = 0.95
    """How often such intervals hold the truth."""
    method: str = "Newcombe, paired"
    """How the interval was computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleScore:
    """One item of one evaluation."""

    id: str
    """The item."""
    target: str
    """What was expected."""
    output: str
    """What the model wrote."""
    exact: bool
    """Equal, character by character, after surrounding white space is taken off."""
    match: bool
    """Equal after case-preserving normalisation: punctuation and white space do not count."""
    error: str | None = None
    """Why it could not be generated; counts as wrong."""
    repeat: int = 0
    """Which of several sampled answers to the item, from 0."""
    stop: str | None = None
    """Why the answer ended: `stop`, `max_tokens`; none where it was not recorded."""
    value: float | None = None
    """Score by a task of the user's own; none where `exact` is the score."""
    parsed: bool | None = None
    """Whether an answer could be read from the output; none where the task does not parse."""
    cluster: str | None = None
    """What it shares with other items, a source document or a template; none where it stands alone."""
    label: str | None = None
    """The label that a classification read from the output; none where it read none, and for other tasks."""
    scores: dict[str, float] = field(default_factory=dict)
    """Every score that a task of the user's own gave the answer, by name."""

    @property
    def score(self) -> float:
        """The score that counts; an item that could not be generated has none of it."""
        if self.error is not None:
            return 0.0
        return float(self.exact) if self.value is None else self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedItem:
    """Test item as it was asked."""

    question: str
    """The item's input: its last user turn, before the chat template."""
    prompt: str | None = None
    """Full prompt as the model saw it, chat template and special tokens included; None where it was not recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMetric:
    """A metric as the task itself declares and Inspect computes it."""

    score: str
    """The score, `rouge_l`, of a scorer with several scores `judge.quality`."""
    name: str
    """The metric, `mean`, `stderr`."""
    value: float
    """Its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecord:
    """eval/<name>.scores.json: what one evaluation gave, beside the genuine .eval log it was read from."""

    schema_version: int = 1
    """Version of this file's form."""
    experiment: str
    """The experiment."""
    run: str
    """The run."""
    task: str
    """The task."""
    checkpoint: str
    """`epoch_0`, or `base` for a control."""
    log: str
    """File name of the .eval log in the same folder."""
    log_sha256: str
    """Hash of that log."""
    adapter_sha256: str | None
    """Hash of the adapter's weights; none for a control."""
    base_sha256: str
    """`ModelInfo.weights_sha256` of the base."""
    data_sha256: str
    """Hash of the test split."""
    settings_sha256: str
    """Hash of prompt, system turn, number of samples, decoding: equal means comparable."""
    decoding: str
    """How it was generated: `greedy, batch 64, bfloat16, at most 24 new tokens`."""
    seconds: float
    """Wall time of the evaluation, without loading."""
    samples: tuple[SampleScore, ...]
    """The items, in the dataset's order; the repeats of an item one after the other."""
    score: str = "exact match"
    """What `SampleScore.score` is."""
    repeats: int = 1
    """Sampled answers to each item."""
    metrics: tuple[TaskMetric, ...] = ()
    """The metrics that a task of the user's own declares, in its order."""
    labels: tuple[str, ...] = ()
    """The labels of a classification."""
    prompt_difference: str | None = None
    """How the task's prompts differ from those of training; none where they agree, or were not compared."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the libraries that evaluated; empty where they were not recorded."""

    @property
    def asked_key(self) -> str:
        """Key of the items as asked: evaluations with the same data and the same settings share it."""
        return f"{self.data_sha256} {self.settings_sha256}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationScores(EvaluationRecord):
    """The scores file: an evaluation with its items as asked. Files written before 0.2 have no `asked`."""

    asked: dict[str, AskedItem] = field(default_factory=dict)
    """Item as asked, by its id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """One exported checkpoint."""

    name: str
    """`epoch_0`, `step_50`."""
    epoch: int | None
    """Epoch that it ends; none for one in between."""
    step: int | None
    """Optimizer step after which it was saved."""
    complete: bool
    """Whether every file is there, with the size and hash that were recorded."""
    problems: tuple[str, ...]
    """What is wrong with it."""
    size_bytes: int
    """Size on disk."""
    adapter_sha256: str | None
    """Hash of the adapter's weights."""
    validation_loss: float | None
    """Validation loss when it was saved."""


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
    notes: tuple[str, ...]
    """What a reader must know: failures, refusals, things left out."""
