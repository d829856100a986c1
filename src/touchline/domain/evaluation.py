"""eval.yaml: everything that the evaluation of one run needs, resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from touchline.domain.experiment import DataConfig, EvaluateConfig

EVALUATION_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationModel:
    """The base model."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: str
    """Its folder's name."""
    path: str
    """Its folder, absolute."""
    weights_sha256: str
    """`ModelInfo.weights_sha256` when it was planned; another one is refused."""
    tokenizer_sha256: str
    """`ModelInfo.tokenizer_sha256` when it was planned; another one is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """One run's evaluation."""

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
    """The task that scores."""
    date: str
    """ISO date frozen in the plan, for chat templates that print one."""
    model: EvaluationModel
    """The base model."""
    data: DataConfig
    """Dataset, columns, prompt; the path is absolute."""
    data_sha256: str
    """`SplitInfo.sha256` of the test split; another one is refused."""
    evaluate: EvaluateConfig
    """Samples, batch, longest answer."""
    control: bool
    """Whether the base alone is evaluated."""
