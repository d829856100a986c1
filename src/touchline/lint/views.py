"""View of the rules on one training, with the facts of its model, data and machine."""

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
    """Number of parameters: from its config.json or the catalogue of public models, else from its name."""
    source: str
    """Source: a path, `catalogue of public models`, `its name`."""
    context_length: int | None = None
    """Maximum supported sequence length in tokens."""
    shape: ModelShape | Missing
    """Its dimensions."""
    path: str | None = None
    """Folder on this machine, if there is one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataFacts:
    """Facts of a training's data."""

    train_examples: int | None
    """Number of training rows."""
    validation_examples: int | None = None
    """Number of validation rows."""
    lengths: NDArray[np.int64] | None = None
    """Tokens of each training row with its template; shape [rows]."""
    source: str = ""
    """Source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Machine that a training is checked for."""

    gpu: Gpu | None = None
    """GPU; None if unknown."""
    gpu_count: int | None = None
    """GPUs of a job; None if unknown."""
    cpus: int | None = None
    """CPU cores of a job; None if unknown."""
    free_disk_bytes: int | None = None
    """Free space of the checkpoints' disk."""
    source: str = ""
    """Source: `this machine`, `--gpu`, `compute.gpu`, the job's script."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingView:
    """Training with its known context."""

    stated: StatedTraining
    """Settings of the config."""
    model: ModelContext | Missing
    """Base model."""
    data: DataFacts | Missing
    """Training data."""
    around: Surroundings
    """Machine of the training."""
