"""View of the rules on one training, with the facts of its model, its data and the machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.estimate.gpus import Gpu
from touchline.spec.partial import StatedTraining


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelContext:
    """Facts of a base model."""

    name: str
    """Name."""
    num_parameters: int | None
    """Parameters: of its config.json or the catalogue of public models, else by its name."""
    source: str
    """Source: a path, `catalogue of public models`, `its name`."""
    context_length: int | None = None
    """The longest sequence that it was made for, in tokens."""
    shape: ModelShape | Missing
    """Its dimensions."""
    path: str | None = None
    """Its folder, where it is on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataFacts:
    """Facts of a training's data."""

    train_examples: int | None
    """Rows that train."""
    validation_examples: int | None = None
    """Rows that validate."""
    lengths: NDArray[np.int64] | None = None
    """Tokens of each training row with its template; shape [rows]."""
    source: str = ""
    """Source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """The machine that a training is checked for."""

    gpu: Gpu | None = None
    """The GPU; none: not known."""
    gpu_count: int | None = None
    """GPUs of a job; none: not known."""
    cpus: int | None = None
    """Processor cores of a job; none: not known."""
    free_disk_bytes: int | None = None
    """Free space where checkpoints go."""
    source: str = ""
    """Source: `this machine`, `--gpu`, `compute.gpu`, the job's script."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingView:
    """One training with what is known around it."""

    stated: StatedTraining
    """Settings of its config."""
    model: ModelContext | Missing
    """Its base."""
    data: DataFacts | Missing
    """Its data."""
    around: Surroundings
    """The machine."""
