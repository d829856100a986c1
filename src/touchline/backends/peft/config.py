"""finetune.yaml of the backend `peft`: everything that one training needs, resolved; the trainer reads nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from touchline.spec.evaluation import PlannedModel
from touchline.spec.experiment import DataConfig, TrainConfig, as_written

FINETUNE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedBatches:
    """Planned batches. The trainer recomputes them and refuses a difference."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    digest: str
    """`BatchPlan.digest`."""
    steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    """Optimizer steps of one epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParentConfig:
    """Parent run of a stage. The trainer verifies its artifacts first."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "alias_generator": as_written,
        "serialize_by_alias": True,
    }

    run: str
    """Its name."""
    folder: str
    """Its folder, relative to this run's: `../135M_rank4_easy`."""
    run_digest: str
    """`PlannedRun.digest` of it; a training with another digest is not resumed."""
    continue_: Literal["adapter", "merge"]
    """`adapter`: its adapter is trained further; `merge`: merged into the base, and a new one trained."""
    checkpoint: Literal["last", "best"]
    """Its last epoch's, or the one with the lowest validation loss of those that are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """Resolved config of a training."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    schema_version: int = FINETUNE_SCHEMA_VERSION
    """Version of this file's form."""
    experiment: str
    """The experiment's name."""
    run: str
    """The run's name."""
    run_digest: str
    """`PlannedRun.digest`; a saved state with another one is not resumed."""
    model: PlannedModel
    """The frozen base."""
    data: DataConfig
    """Dataset, columns, prompt; the path is absolute."""
    data_sha256: str
    """Hash of the dataset's file; another one is refused."""
    date: str
    """ISO date frozen in the plan, for chat templates that print one."""
    train: TrainConfig
    """The training; nothing in it is `auto` except `base_dtype`, which depends on where it runs."""
    seed: int
    """Order of the examples, initial adapter, dropout."""
    batches: PlannedBatches
    """Planned batches."""
    parent: ParentConfig | None = None
    """Parent run. None if the training starts from the base model."""
    shuffled_labels: bool = False
    """Whether the answers of the training rows are shuffled by `seed`, as a control. The file has this key only if it
    is true.
    """
