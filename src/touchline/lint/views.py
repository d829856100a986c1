"""Views of the rules on a training and on a job script, with the known facts of model, data and machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.estimate.gpus import Gpu
from touchline.experiment.partial import StatedTraining
from touchline.slurm.resources import Requested, requested
from touchline.slurm.script import Launch, Script


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelContext:
    """Facts of a base model."""

    name: str
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
    longest_rendered: int | None = None
    """Tokens of the longest row as the trainer renders it, where not all lengths are known."""
    longest_evaluated: int | None = None
    """Tokens of the longest row by the model's own template, where the trainer's rendering is not known; without a
    tokenizer, the most that it can have."""
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Machine that a training is checked for."""

    gpu: Gpu | None = None
    """GPU; None if unknown."""
    gpu_count: int | None = None
    """GPUs of a job; None if unknown."""
    cpus: int | None = None
    """CPU cores of a job; None if unknown."""
    at_once: int = 1
    """Runs that the job trains at the same time."""
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
    around: Surroundings
    """Machine of the training."""
    has_planned_memory: bool = False
    """Whether a plan estimates its memory, so that no rule does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScriptView:
    """Job script with its known context."""

    script: Script

    @cached_property
    def requested(self) -> Requested:
        """Return its requested resources, per node."""
        return requested(self.script.effective)

    @cached_property
    def trainings(self) -> tuple[Launch, ...]:
        """Return commands that train, or that start several processes."""
        return tuple(launch for launch in self.script.launches if launch.is_long)
