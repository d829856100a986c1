"""Backend interface, and what each backend can do: the refusal of settings that it cannot.

An unsupported facet is `Missing(reason)`, which appears in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from touchline.core.catalog import ModelInfo
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding, Severity
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun
from touchline.experiment.training import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """Features of a backend. A setting that it lacks is an error, never dropped."""

    devices: int = 1
    stages: bool = False
    """Whether a run can continue from another run's adapter."""
    shuffled_labels: bool = False
    """Whether it can train on shuffled answers, as a shuffled control does."""
    vision: bool = False
    cohorts: bool = False
    """Whether several runs train side by side on one base, in one process."""
    pauses: bool = False
    """Whether a training pauses at the step that pause.json names, and continues as if it had not paused."""
    shares_validation: bool = False
    """Whether a run takes the validation before its first step over from another run on the same base and items."""
    recipes: bool = False
    one_dtype: bool = False
    packing_keeps_steps: bool = True
    """Whether a step holds as many examples packed as unpacked. If not, `packed: auto` does not pack."""
    values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Supported values by dotted key under `train`. A key that is not listed takes every value."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why other values are not supported, by the same key, where that is no matter of course."""


def setting_value(train: TrainConfig, key: str) -> object:
    """Return the value of a dotted key under `train`, such as `lora.dora`."""
    value: object = train
    for name in key.split("."):
        value = getattr(value, name)
    return value


def unsupported_settings(name: str, train: TrainConfig, capabilities: Mapping[str, Capabilities]) -> Iterator[Finding]:
    """Yield an error for each setting that a backend does not support, with the backends that do."""
    for key, supported in capabilities[name].values.items():
        value = setting_value(train, key)
        if _supports(value, supported):
            continue
        able = [
            other
            for other, features in capabilities.items()
            if key not in features.values or _supports(value, features.values[key])
        ]
        expected = " or ".join(map(_text, supported))
        reason = f" ({capabilities[name].reasons[key]})" if key in capabilities[name].reasons else ""
        hint = f"backend: {able[0]}" if able else f"{key.rpartition('.')[2]}: {_text(supported[0])}"
        yield unsupported(name, key, f"{key}: {_text(value)}{reason}, expected {expected}", hint)


def unsupported(backend: str, key: str, combination: str, hint: str | None) -> Finding:
    """Build the error for a setting that a backend does not support.

    Args:
        combination: the value, or the values that exclude each other.
        hint: the change that helps, if there is one.
    """
    return error(f"train.{key}", f"the backend {backend} does not support {combination}", hint)


def error(subject: str, message: str, hint: str | None = None, code: str = "BK001") -> Finding:
    """Build an error about a setting."""
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)


def _supports(value: object, supported: tuple[object, ...]) -> bool:
    if value == "auto":
        # It becomes a supported value.
        return True
    return any(value == able and isinstance(value, bool) == isinstance(able, bool) for able in supported)


def _text(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


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
            width: tokens of the longest row.
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
