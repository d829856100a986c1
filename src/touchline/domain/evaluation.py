"""eval.yaml of a run: everything that its evaluation needs, resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from touchline.domain.experiment import DataConfig, EvaluateConfig

EVALUATION_SCHEMA_VERSION = 1


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
