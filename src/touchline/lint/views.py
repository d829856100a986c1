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
from touchline.slurm.launches import Launch
from touchline.slurm.resources import Requested, requested
from touchline.slurm.script import Script


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelContext:
    """Facts of a base model."""

    name: str
    num_parameters: int | None
    """Number of parameters: from its config.json or the catalogue of public models, else from its name."""
    source: str
    """Source: a path, `catalogue of public models`, `its name`."""
    context_length: int | None = None
    shape: ModelShape | Missing
    path: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataFacts:
    """Facts of a training's data."""

    train_examples: int | None
    validation_examples: int | None = None
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
    gpu_count: int | None = None
    cpus: int | None = None
    at_once: int = 1
    """Runs that the job trains at the same time."""
    free_disk_bytes: int | None = None
    source: str = ""
    """Source: `this machine`, `--gpu`, `compute.gpu`, the job's script."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingView:
    """Training with its known context."""

    stated: StatedTraining
    model: ModelContext | Missing
    data: DataFacts | Missing
    around: Surroundings
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
