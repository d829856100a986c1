"""eval.yaml of a run: everything that its evaluation needs, resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from touchline.domain.experiment import DataConfig, EvaluateConfig

EVALUATION_SCHEMA_VERSION = 1
BASE_CHECKPOINT = "base"
"""What a control's checkpoint is called."""
AskedEpochs = Literal["last", "all"] | tuple[int, ...]
"""What `evaluate.epochs` may say."""


def asked_epochs(asked: AskedEpochs, epochs: int) -> tuple[int, ...]:
    """Epochs, from 0, whose checkpoints are to be evaluated, whether they are there or not.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """One run's evaluation, whichever of its checkpoints is evaluated."""

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
    evaluate: EvaluateConfig
    """Samples, batch size, longest answer."""
    control: bool
    """Whether the run is a control: the base itself is evaluated."""
    train_epochs: int | None = None
    """Epochs of its training, of which `evaluate.epochs` names some; none for a control, and in files of before."""
