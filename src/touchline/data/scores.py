"""Measurements, checkpoints and scores of one run. Absent is not zero."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleScore:
    """Score of one item in one evaluation."""

    id: str
    """Id of the item."""
    target: str
    """Expected answer."""
    output: str
    """Generated answer."""
    exact: bool
    """Whether the output equals the target, ignoring surrounding white space."""
    match: bool
    """Whether they are equal after case-preserving normalization of punctuation and white space."""
    error: str | None = None
    """Reason why generation failed, which counts as wrong."""
    repeat: int = 0
    """Number of the sampled answer to the item, from 0."""
    stop: str | None = None
    """Reason why the answer ended: `stop`, `max_tokens`. None if not recorded."""
    value: float | None = None
    """Score by a user's task. None if `exact` is the score."""
    parsed: bool | None = None
    """Whether an answer could be parsed from the output. None if the task does not parse."""
    cluster: str | None = None
    """Cluster of the item, such as a source document or a template. None if it has none."""
    label: str | None = None
    """Label that a classification parsed from the output. None if there is none, and for other tasks."""
    scores: dict[str, float] = field(default_factory=dict)
    """All scores of the answer by a user's task, by name."""

    @property
    def score(self) -> float:
        """Primary score. None if generation failed."""
        if self.error is not None:
            return 0.0
        return float(self.exact) if self.value is None else self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedItem:
    """Test item as it was asked."""

    question: str
    """Input of the item: its last user turn, before the chat template."""
    prompt: str | None = None
    """Full prompt including chat template and special tokens. None if not recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMetric:
    """Metric declared by the task and computed by Inspect."""

    score: str
    """Score, `rouge_l`; for a scorer with several scores `judge.quality`."""
    name: str
    """Metric, `mean`, `stderr`."""
    value: float
    """Value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecord:
    """eval/<name>.scores.json: result of one evaluation, read from its .eval log."""

    schema_version: int = 1
    """Version of this format."""
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
    """Hash of the adapter's weights. None for a control."""
    base_sha256: str
    """`ModelInfo.weights_sha256` of the base model."""
    data_sha256: str
    """Hash of the test split."""
    settings_sha256: str
    """Hash of prompt, system turn, number of samples and decoding. Equal means comparable."""
    decoding: str
    """Decoding settings: `greedy, batch 64, bfloat16, at most 24 new tokens`."""
    seconds: float
    """Wall-clock time of the evaluation, without loading."""
    samples: tuple[SampleScore, ...]
    """Items in dataset order; repeats of an item are consecutive."""
    score: str = "exact match"
    """Name of `SampleScore.score`."""
    repeats: int = 1
    """Sampled answers per item."""
    metrics: tuple[TaskMetric, ...] = ()
    """Metrics that a user's task declares, in order."""
    labels: tuple[str, ...] = ()
    """Labels of a classification."""
    prompt_difference: str | None = None
    """Difference between the task's prompts and those of training. None if they agree or were not compared."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the libraries. Empty if not recorded."""
    test_set: str | None = None
    """Name of the test set. None if the experiment has one without a name."""
    was_first: bool | None = None
    """Whether its test set was the one named first, on which claims are made, when it was evaluated. None without
    names."""

    @property
    def label(self) -> str:
        """Task and test set: `capitalization`, of a set with a name `capitalization on 9L`."""
        return self.task if self.test_set is None else f"{self.task} on {self.test_set}"

    @property
    def asked_key(self) -> str:
        """Key of the items as asked, shared by evaluations with equal data and settings."""
        return f"{self.data_sha256} {self.settings_sha256}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationScores(EvaluationRecord):
    """Scores file: an evaluation with its items as asked. Files written before 0.2 have no `asked`."""

    asked: dict[str, AskedItem] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """Exported checkpoint."""

    name: str
    """`epoch_0`, `step_50`."""
    epoch: int | None
    """Epoch that it ends. None between epochs."""
    step: int | None
    """Optimizer step after which it was saved."""
    complete: bool
    """Whether every file exists with the recorded size and hash."""
    problems: tuple[str, ...]
    """Problems found."""
    size_bytes: int
    """Size on disk."""
    adapter_sha256: str | None
    """Hash of the adapter's weights."""
    validation_loss: float | None
    """Validation loss at this step."""
