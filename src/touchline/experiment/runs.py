"""A run: one condition of the design, one seed, one folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from touchline.core.levels import Level
from touchline.experiment.data_config import DataConfig
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.training import RuleRate, TrainConfig

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""What a run may be called, whatever the level's text: it becomes a folder, a job name and a column."""


class Phase(StrEnum):
    """Phase of a run in a strategy."""

    EXPLORE = "explore"
    CONFIRM = "confirm"


class RunKind(StrEnum):
    """Kind of work of a run."""

    FINE_TUNED = "fine-tuned"
    CONTROL = "control"


class ControlKind(StrEnum):
    """Kind of a control, as in `controls` of experiment.yaml."""

    BASE = "base"
    """The base model without any training: what a run gains is measured against it."""
    NO_OP = "noop"
    """The base model through a fresh adapter that changes nothing: it must score as the base does."""
    SHUFFLED = "shuffled"
    """The same training on shuffled answers. Its gain comes from the answer format, not the task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParentLink:
    """Way a stage continues from its parent."""

    stage: str
    """The stage's name, as the file has it."""
    parent: str
    """Name of the parent run."""
    continue_: Literal["adapter", "merge"]
    """`adapter`: the parent's adapter is trained further; `merge`: it is merged into the base and a new one trained."""
    parent_checkpoint: Literal["last", "best"] = "last"
    """Parent checkpoint: the last epoch's, or the one with the lowest validation loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """A run before anything is known of the disk: what the design asks for."""

    name: str
    """The folder's name; unique in the experiment when case-folded."""
    kind: RunKind
    model: str
    """The base model as it was written."""
    data: DataConfig
    train: TrainConfig
    """Its training; of a control only the context length matters."""
    evaluate: EvaluateConfig
    seed: int
    """Order of the examples, initial adapter, dropout."""
    levels: tuple[Level, ...] = ()
    link: ParentLink | None = None
    control: ControlKind | None = None
    phase: Phase | None = None
    rule_rate: RuleRate | None = None
    """Learning rate by the published rule; None where the model is not known."""
    learning_rate_reason: str | None = None
    """Origin of a learning rate that was `auto`; None for other runs."""
