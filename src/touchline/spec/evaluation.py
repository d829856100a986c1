"""eval.yaml of a run: everything that its evaluation needs, resolved."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from touchline.core.catalog import ModelInfo
from touchline.core.units import plural
from touchline.spec.experiment import DataConfig, EvaluateConfig, LoraConfig

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
        epochs: epochs of the training.
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
    """A task of `evaluate.tasks`, resolved."""

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
    """Modules beside the file that it imports, and their hashes when it was planned."""
    takes_data: bool = False
    """Whether its function has an argument `data`, which gets the experiment's test items."""
    scorers: tuple[str, ...] = ()
    """Its scorers as the file declares them, in order; empty if that cannot be read without running it."""
    own_prompt: tuple[str, ...] = ()
    """Calls in the file that change the prompt of an item, as far as they can be read: `system_message('Be brief')`."""
    prompts: tuple[str, ...] = ()
    """Inputs of its samples that are written in the file, with `{}` for what is filled in: `Capitalize: {}`."""

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
    """Tasks of `evaluate.tasks`, resolved."""
    gpus: int = 1
    """GPUs among which the base is divided; a score does not depend on them."""
    train_epochs: int | None = None
    """Epochs of its training, of which `evaluate.epochs` names some; None for a control, and in files of before."""

    @property
    def control_checkpoint(self) -> str:
        """Return the checkpoint name of a control: the base itself, or the no-op adapter."""
        return BASE_CHECKPOINT if self.no_op is None else NO_OP_CHECKPOINT

    def resolved(self, task: EvaluationTask | None) -> EvaluationTask:
        """Return a further task, or for None the run's own."""
        return task or self.own or EvaluationTask(name=self.task)

    def task_named(self, name: str) -> EvaluationTask | None:
        """Return the further task of that name; None for the run's own task and for others."""
        return next((task for task in self.tasks if task.name == name), None)


def errors_allowed(max_error_rate: float, answers: int) -> int:
    """Return the number of answers that may fail, exact for shares such as 0.29 of 100."""
    return math.floor(round(max_error_rate * answers, 6))


def decoding_text(evaluate: EvaluateConfig, dtype: str | None = None, largest: int | None = None) -> str:
    """Return the decoding in words: `greedy, batch 64, bfloat16, at most 24 new tokens`.

    Args:
        evaluate: the settings.
        dtype: element type of the base, where it is known.
        largest: prompts in the largest batch, where it is known; a batch size of `auto` does not say it.
    """
    how = ["greedy"]
    if evaluate.temperature:
        how = [f"temperature {evaluate.temperature:g}", *([f"top-p {evaluate.top_p:g}"] if evaluate.top_p < 1 else [])]
        how.append(f"{plural(evaluate.repeats, 'answer')} an item, seed {evaluate.seed}")
    typed = [] if evaluate.quantization == "none" else [f"{evaluate.quantization} base"]
    typed += [dtype] if dtype is not None else []
    batch = f"batch {evaluate.batch_size}"
    if evaluate.batch_size == "auto" and largest is not None:
        batch += f" (at most {largest})"
    return ", ".join([*how, batch, *typed, f"at most {evaluate.max_new_tokens} new tokens"])
