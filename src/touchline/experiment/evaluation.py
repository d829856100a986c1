"""eval.yaml of a run: everything that its evaluation needs, resolved; its test sets and its labels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from touchline.core.catalog import DatasetInfo, ModelInfo, SplitInfo
from touchline.core.units import plural
from touchline.experiment.data_config import DataConfig
from touchline.experiment.experiment import EvaluateConfig, task_file_stem
from touchline.experiment.training import LoraConfig

EVALUATION_SCHEMA_VERSION = 1
BASE_CHECKPOINT = "base"
"""Checkpoint name of a control."""
NO_OP_CHECKPOINT = "noop"
"""What the checkpoint of a no-op control is called: a folder with an adapter that changes nothing."""
AskedEpochs = Literal["last", "all"] | tuple[int, ...]
"""Values of `evaluate.epochs`."""


def asked_epochs(asked: AskedEpochs, epochs: int) -> tuple[int, ...]:
    """Return the epochs, from 0, whose checkpoints are to be evaluated, existing or not.

    Args:
        asked: what `evaluate.epochs` says.
    """
    if asked == "last":
        return (epochs - 1,) if epochs else ()
    if asked == "all":
        return tuple(range(epochs))
    return tuple(epoch for epoch in asked if epoch < epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModel:
    """The base model, as it was planned."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: str
    """Its folder's name."""
    path: str
    """Its folder, absolute."""
    weights_sha256: str
    """`ModelInfo.weights_sha256` when it was planned; training on, or an adapter of, another one is refused."""
    tokenizer_sha256: str
    """`ModelInfo.tokenizer_sha256` when it was planned; it decides on the prompt's tokens."""


def planned_model(model: ModelInfo) -> PlannedModel:
    """Return a model as the files of a run name it. The reason in place of a missing hash matches no model."""
    return PlannedModel(
        name=model.name,
        path=model.path,
        weights_sha256=str(model.weights_sha256),
        tokenizer_sha256=str(model.tokenizer_sha256),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTask:
    """A task of `evaluate.tasks`, or the experiment's own on a further test set, resolved."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: str
    """Name as written: `exact_match`, `tasks/mine.py@name`."""
    file: str | None = None
    """The Inspect task's file, relative if it is in the experiment's folder; None for a ready-made task."""
    function: str | None = None
    """Name of the task function; None: the only one in the file."""
    sha256: str | None = None
    """Hash of the file when it was planned; another one is refused."""
    lines: int | None = None
    """Number of lines of the file."""
    modules: dict[str, str] = field(default_factory=dict)
    """Modules next to the file that it imports, and their hashes when it was planned."""
    takes_data: bool = False
    """Whether its function has an argument `data`, which gets the experiment's test items."""
    scorers: tuple[str, ...] = ()
    """Its scorers as the file declares them, in order; empty if that cannot be read without running it."""
    own_prompt: tuple[str, ...] = ()
    """Calls in the file that change the prompt of an item, as far as they can be read: `system_message('Be brief')`."""
    prompts: tuple[str, ...] = ()
    """Inputs of its samples that are written in the file, with `{}` for what is filled in: `Capitalize: {}`."""
    test_set: str | None = None
    """Name of the further test set that the experiment's own task asks; None for a task of `evaluate.tasks`."""
    data_sha256: str | None = None
    """Hash of that test set when it was planned; another one is refused."""
    images_sha256: str | None = None
    """Hash of the images of that test set; None without images."""

    @property
    def label(self) -> str:
        """Task and test set: `capitalization`, of a further test set `capitalization on 9L`."""
        return set_label(self.name, self.test_set)

    @property
    def stem(self) -> str:
        """Begin of its files' names: `capitalization`, of a further test set `capitalization-9L`."""
        return set_stem(self.name, self.test_set)

    @property
    def is_file(self) -> bool:
        """Return True if it is the user's own code."""
        return self.file is not None

    @property
    def code_sha256(self) -> str | None:
        """Hash of the file, and of its modules where it has any."""
        if not self.modules:
            return self.sha256
        parts = [self.sha256 or "", *sorted(self.modules.values())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Evaluation of one run, at any of its checkpoints."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    schema_version: int = EVALUATION_SCHEMA_VERSION
    """Version of this file's form."""
    experiment: str
    """The experiment's name."""
    run: str
    """The run's name."""
    run_digest: str
    """`PlannedRun.digest`."""
    task: str
    """The task, which scores."""
    date: str
    """ISO date frozen in the plan, for chat templates that print one."""
    model: PlannedModel
    """The base model."""
    data: DataConfig
    """Dataset, columns, prompt; the path is absolute."""
    data_sha256: str
    """`SplitInfo.sha256` of the test split; another one is refused."""
    images_sha256: str | None = None
    """Hash of the images of the test split; others are refused. None without images; the file has this key only with
    them.
    """
    evaluate: EvaluateConfig
    """Samples, decoding, further tasks."""
    control: bool
    """Whether the run is a control: the base itself is evaluated."""
    no_op: LoraConfig | None = None
    """Shape of the fresh adapter that a no-op control is evaluated through; None for every other run."""
    own: EvaluationTask | None = None
    """The run's own task where it is a file; None for a ready-made one."""
    labels: tuple[str, ...] = ()
    """The labels that a classification reads from the answers."""
    tasks: tuple[EvaluationTask, ...] = ()
    """Tasks of `evaluate.tasks`, and the own task on each further test set, resolved."""
    gpus: int = 1
    """GPUs among which the base is divided; a score does not depend on them."""
    train_epochs: int | None = None
    """Epochs of its training, of which `evaluate.epochs` names some; None for a control, and in files of before."""

    @property
    def control_checkpoint(self) -> str:
        """Return the checkpoint name of a control: the base itself, or the no-op adapter."""
        return BASE_CHECKPOINT if self.no_op is None else NO_OP_CHECKPOINT

    @property
    def first_set(self) -> str | None:
        """Return the name of the test set that claims are made on; None if test sets have no names."""
        return next(iter(self.data.test), None) if isinstance(self.data.test, dict) else None

    def on(self, task: EvaluationTask | None) -> EvaluationConfig:
        """Return the configuration with the test set of a task as its only one, without a name: a set may be renamed.

        Args:
            task: a further task; None for the run's own.
        """
        test_set = self.set_of(task) or self.first_set
        if test_set is None or not isinstance(self.data.test, dict):
            return self
        alone = replace(self, data=replace(self.data, test=self.data.test[test_set]))
        if task is None or task.test_set is None:
            return alone
        return replace(alone, data_sha256=task.data_sha256 or "", images_sha256=task.images_sha256)

    def set_of(self, task: EvaluationTask | None) -> str | None:
        """Return the name of the test set that a task asks; None if it has none."""
        if task is None:
            return self.first_set
        return task.test_set

    def label_of(self, task: EvaluationTask | None) -> str:
        """Return task and test set in words."""
        return set_label(self.resolved(task).name, self.set_of(task))

    def asks_as_trained(self, task: EvaluationTask | None) -> bool:
        """Return True if a task is the run's own, on any test set: it has the prompt of training."""
        return task is None or task.test_set is not None

    def resolved(self, task: EvaluationTask | None) -> EvaluationTask:
        """Return a further task, or for None the run's own."""
        return task or self.own or EvaluationTask(name=self.task)

    def task_named(self, name: str) -> EvaluationTask | None:
        """Return the further task with that label; None for the run's own task and for others."""
        return next((task for task in self.tasks if task.label == name), None)


def set_label(task: str, test_set: str | None) -> str:
    """Return task and test set in words: `capitalization`, of a set with a name `capitalization on 9L`."""
    return task if test_set is None else f"{task} on {test_set}"


def set_stem(task: str, test_set: str | None) -> str:
    """Return the begin of the file names of a task's evaluations, with the test set where it has a name."""
    return task_file_stem(task) if test_set is None else f"{task_file_stem(task)}-{test_set}"


def errors_allowed(max_error_rate: float, answers: int) -> int:
    """Return the number of answers that may fail, exact for shares such as 0.29 of 100."""
    return math.floor(round(max_error_rate * answers, 6))


def decoding_text(evaluate: EvaluateConfig, dtype: str | None = None, largest: int | None = None) -> str:
    """Return the decoding in words: `greedy, batch 64, bfloat16, at most 24 new tokens`.

    Args:
        dtype: element type of the base, where it is known.
        largest: prompts in the largest batch, where it is known; a batch size of `auto` does not say it.
    """
    how = ["greedy"]
    if evaluate.temperature:
        how = [f"temperature {evaluate.temperature:g}", *([f"top-p {evaluate.top_p:g}"] if evaluate.top_p < 1 else [])]
        how.append(f"{plural(evaluate.repeats, 'answer')} per item, seed {evaluate.seed}")
    typed = [] if evaluate.quantization == "none" else [f"{evaluate.quantization} base"]
    typed += [dtype] if dtype is not None else []
    batch = f"batch {evaluate.batch_size}"
    if evaluate.batch_size == "auto" and largest is not None:
        batch += f" (at most {largest})"
    return ", ".join([*how, batch, *typed, f"at most {evaluate.max_new_tokens} new tokens"])


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSet:
    """The labels of one dataset, for `task: classification`."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    dataset: str
    """The dataset's file, absolute."""
    column: str
    """The column of its answers."""
    labels: tuple[str, ...]
    """The labels."""
    counts: dict[str, tuple[int, ...]]
    """By split, how many rows each label has, in the order of `labels`."""

    def majority(self, split: str) -> tuple[str, int, int] | None:
        """Return the most frequent label of a split, its rows, and all rows; None if the split has none."""
        counts = self.counts.get(split, ())
        if not sum(counts):
            return None
        most = max(range(len(counts)), key=counts.__getitem__)
        return self.labels[most], counts[most], sum(counts)


def labels_of(sets: Sequence[LabelSet], dataset: str, data: DataConfig, evaluate: EvaluateConfig) -> tuple[str, ...]:
    """Return the labels that a run is scored on; none if its dataset has no labels.

    Args:
        sets: the labels of each dataset.
        dataset: the dataset's file, absolute.
        data: the run's columns.
        evaluate: the run's evaluation, which may name the labels.
    """
    column, given = data.messages or data.output, tuple(str(label).strip() for label in evaluate.labels)
    fitting = (each for each in sets if each.dataset == dataset and each.column == column)
    return next((each.labels for each in fitting if not given or given == each.labels), ())


def further_sets(dataset: DatasetInfo) -> Sequence[SplitInfo]:
    """Return the test sets after the one named first, on which the claims are made."""
    return dataset.test_sets[1:]


def asked_items(evaluate: EvaluateConfig, rows: int) -> int:
    """Return the number of items of a test set that are asked."""
    return rows if evaluate.samples == "all" else min(evaluate.samples, rows)


def logs_per_checkpoint(dataset: DatasetInfo, evaluate: EvaluateConfig) -> int:
    """Return the number of evaluations of one checkpoint: a log for every test set and further task."""
    return 1 + len(further_sets(dataset)) + len(evaluate.tasks)


def answers_per_checkpoint(dataset: DatasetInfo, evaluate: EvaluateConfig) -> int:
    """Return the answers to every test set and further task, repeats included, at one checkpoint.

    Further tasks ask the test set named first.
    """
    first = next((split.num_examples for split in dataset.splits if split.name == "test"), 0)
    items = asked_items(evaluate, first) * (1 + len(evaluate.tasks))
    items += sum(asked_items(evaluate, each.num_examples) for each in further_sets(dataset))
    return evaluate.repeats * items
