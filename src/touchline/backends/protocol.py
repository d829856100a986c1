"""Backend interface. An unsupported facet is `Missing(reason)`, which appears in the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from touchline.backends.capabilities import Capabilities
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleLengths:
    """Tokens of a training split in the dataset's order; exact, or counted otherwise, with ends."""

    prompt: NDArray[np.uint32]
    """Tokens of each prompt; shape [examples]."""
    answer: NDArray[np.uint32]
    """Tokens of each answer with its stop token, which carry the loss; shape [examples]."""

    prefix: int = 0
    """Tokens that all prompts begin with."""
    patches: int = 0
    """Patches of all images, as the model's image processor scales them."""
    patch_squares: int = 0
    """Sum of the squared patches of each image."""
    of_tests: ExampleLengths | None = None
    """Tokens of the items of all test sets that have files of their own; None if no test set has."""
    ends: tuple[ExampleLengths, ExampleLengths] | None = None
    """Lower and upper ends, where the model's tokenizer is not here and something else counted; None: exact."""

    @property
    def asked(self) -> ExampleLengths:
        """Return the lengths of what an evaluation asks; without test files those of the training split."""
        return self.of_tests or self

    @property
    def total(self) -> NDArray[np.uint32]:
        """Tokens of each example; shape [examples]."""
        return self.prompt + self.answer

    def within(self, limit: int) -> ExampleLengths:
        """Return lengths that were not counted exactly with no example longer than a limit; exact ones as they are."""
        if self.ends is None:
            return self
        low, high = (each._cut(limit) for each in self.ends)
        return replace(self._cut(limit), ends=(low, high))

    def _cut(self, limit: int) -> ExampleLengths:
        answer = np.minimum(self.answer, max(limit - 1, 1)).astype(np.uint32)
        prompt = np.minimum(self.prompt, limit - answer).astype(np.uint32)
        return replace(self, prompt=prompt, answer=answer, prefix=min(self.prefix, int(prompt.min(initial=1)) - 1))


@dataclass(frozen=True, slots=True)
class FixedSetting:
    """Setting of a run that experiment.yaml leaves to the trainer."""

    key: str
    """Its dotted key, `train.loss`."""
    value: str
    reason: str | None = None
    """Reason, if it follows from other settings of the run. None: the same in every run with this trainer."""


class Backend(Protocol):
    """A trainer, as the planner sees it: pure functions on values, no process and no file."""

    name: str
    """Name of its folder, a value of `train.backend`."""
    capabilities: Capabilities
    """Supported features and values of settings."""

    def fixed_settings(self, train: TrainConfig) -> tuple[FixedSetting, ...]:
        """Return the settings that the trainer decides for this training, such as its loss."""
        ...

    def faults(self, model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
        """Return the requested features that the backend does not support."""
        ...

    def setup(
        self, train: TrainConfig, shape: ModelShape, machine: TargetMachine, width: int, devices: int = 1
    ) -> TrainingSetup:
        """Return what memory and time depend on apart from the batch.

        Args:
            train: the training; `base_dtype: auto` becomes what the machine is fast at.
            machine: where it will run.
            width: tokens of the longest row.
            devices: data-parallel size.
        """
        ...

    def batches(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchSummary | Missing:
        """Return the backend's exact batching and rounding. `train` is resolved."""
        ...

    def forecast(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchForecast | Missing:
        """Return the predicted micro-batches. `train` is resolved."""
        ...

    def files(self, run: PlannedRun, plan: Plan, python: str = "python3") -> Mapping[str, str]:
        """Return the files of the run's folder that the training reads, by name; finetune.yaml is one of them.

        Args:
            python: interpreter that has touchline.
        """
        ...

    def command(self, python: str) -> tuple[str, ...]:
        """Return the training command, to run in the run's folder. It starts a process for every device.

        Args:
            python: interpreter that has touchline.
        """
        ...
