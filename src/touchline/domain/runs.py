"""A run: one condition of the design, one seed, one folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from touchline.domain.experiment import DataConfig, EvaluateConfig, TrainConfig

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""What a run may be called, whatever the level's text: it becomes a folder, a job name and a column."""


class RunKind(StrEnum):
    """What is done in a run."""

    FINE_TUNED = "fine-tuned"
    CONTROL = "control"


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One setting of one factor, for the tables and the report."""

    factor: str
    """The dotted key, `train.lora.rank`."""
    value: str
    """The level, as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """A run before anything is known of the disk: what the design asks for."""

    name: str
    """The folder's name; unique in the experiment when case-folded."""
    kind: RunKind
    """Fine-tuned, or a control."""
    model: str
    """The base model as it was written."""
    data: DataConfig
    """Its dataset."""
    train: TrainConfig
    """Its training; of a control only the context length matters."""
    evaluate: EvaluateConfig
    """Its evaluation."""
    seed: int
    """Order of the examples, initial adapter, dropout."""
    levels: tuple[Level, ...] = ()
    """Its level of each factor."""
