"""What came out: measured figures, checkpoints and scores of one run. Absent is not zero."""

from __future__ import annotations

from dataclasses import dataclass, field


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
