"""View of the rules on a training: known facts of model, data and machine, and its arithmetic before it runs.

Each number is a span, because a config alone is rarely complete; a rule reports an error only if both ends of the span
violate it. Rounding follows each trainer: some drop an incomplete micro-batch or accumulation, others round up.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from touchline.backends.registry import batching_names, batching_of, traits_of
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast, BatchSettings
from touchline.estimate.gpus import Gpu
from touchline.experiment.partial import Stated, StatedTraining
from touchline.experiment.training import optimizer_steps


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


_SIMULATED_ROWS: Final = 200_000
"""Maximum number of rows for which packing is simulated during a check. With more, a bound is given."""
_SLICE = re.compile(r"\[(-?\d*):(-?\d*)\]\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Whole number within known bounds."""

    low: int
    high: int | None
    """Upper bound; None if unknown."""

    @property
    def exact(self) -> int | None:
        """Return the number if both bounds agree."""
        return self.low if self.low == self.high else None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low:,}"
        if self.low == self.high:
            return f"{self.low:,}"
        return f"at most {self.high:,}" if self.low <= 1 else f"{self.low:,} to {self.high:,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """Numbers of a training."""

    devices: Span
    rows_per_step: Span | Missing
    """Rows of an optimizer step: micro-batch × accumulation × devices. Packed, a row holds several examples."""
    rows: Span | Missing
    """Rows of an epoch: examples, or packed sequences."""
    steps_per_epoch: Span | Missing
    steps: Span | Missing
    density: float | None
    """Examples per row; None for packed rows of unknown lengths."""
    longest_row: int | None
    """Tokens of the longest row, truncated at `max_seq_len`; None if lengths are unknown."""
    forecast: BatchForecast | None
    """Simulated packing and batching of an epoch by the trainer; None if lengths are unknown."""

    def interval(self, every: Stated[float] | None) -> int | None:
        """Return the steps of an interval, which may be a share of all steps. None if not known."""
        if every is None or every.value <= 0:
            return None
        if every.value >= 1:
            return int(every.value)
        total = None if isinstance(self.steps, Missing) else self.steps.exact
        return None if total is None else max(1, math.ceil(total * every.value))


@functools.lru_cache(maxsize=32)
def arithmetic(view: TrainingView) -> Arithmetic:
    """Return the numbers of a training, cached by the view's identity."""
    stated = view.stated
    devices = _devices(view)
    per_step = _rows_per_step(stated, devices)
    examples = _examples(view)
    packed = stated.packed is not None and stated.packed.value
    forecast = _forecast(view, devices)
    rows, density = _rows(view, examples, forecast, packed=packed)
    per_epoch = _steps_per_epoch(stated, rows, per_step, devices, forecast)
    steps = _steps(stated, per_epoch)
    return Arithmetic(
        devices=devices,
        rows_per_step=per_step,
        rows=rows,
        steps_per_epoch=per_epoch,
        steps=steps,
        density=density,
        longest_row=_longest(view),
        forecast=forecast,
    )


def most(span: Span | Missing) -> int | None:
    """Return the upper bound of a number. None if it has none."""
    return None if isinstance(span, Missing) else span.high


def rows_of_split(split: str) -> int | None:
    """Return the most rows of a slice, `train[:500]` or `train[100:600]`. None if it is open or in percent."""
    match = _SLICE.search(split)
    if match is None:
        return None
    start, end = (int(part) if part else None for part in match.groups())
    if end is None:
        return -start if start is not None and start < 0 else None
    if start is None:
        return end if end >= 0 else None
    same_side = (start < 0) == (end < 0)
    return max(0, end - start) if same_side else None


def _devices(view: TrainingView) -> Span:
    stated, around = view.stated, view.around
    if stated.devices is not None and stated.devices.value >= 1:
        return Span(low=stated.devices.value, high=stated.devices.value)
    if traits_of(stated.backend).is_ours:
        return Span(low=1, high=1)
    if around.gpu_count is not None and around.gpu_count >= 1:
        return Span(low=around.gpu_count, high=around.gpu_count)
    return Span(low=1, high=None)


def _rows_per_step(stated: StatedTraining, devices: Span) -> Span | Missing:
    if stated.micro_batch_size is None and stated.global_batch_size is None:
        return Missing(missing="the batch size is not stated")
    low = _step_rows(stated, devices.low)
    if low < 1:
        return Missing(missing="the batch size is not positive")
    of_all = stated.global_batch_size is not None
    return Span(low=low, high=low if of_all else None if devices.high is None else _step_rows(stated, devices.high))


def _step_rows(stated: StatedTraining, devices: int) -> int:
    """Return the rows of a step on so many devices: the global batch, or micro-batch × accumulation × devices.
    0 if a size is not positive."""
    micro = 1 if stated.micro_batch_size is None else stated.micro_batch_size.value
    if min(micro, _accumulation(stated)) < 1:
        return 0
    if stated.global_batch_size is not None:
        return max(stated.global_batch_size.value, 0)
    return micro * _accumulation(stated) * devices


def _accumulation(stated: StatedTraining) -> int:
    return 1 if stated.gradient_accumulation_steps is None else stated.gradient_accumulation_steps.value


def _examples(view: TrainingView) -> Span | Missing:
    stated = view.stated
    bound = _bound_of_sources(stated)
    if not isinstance(view.data, Missing) and view.data.train_examples is not None:
        count = view.data.train_examples
        return Span(low=count, high=count)
    if bound is not None:
        return Span(low=0, high=bound)
    return Missing(missing=view.data.missing if isinstance(view.data, Missing) else "the data's rows are not counted")


def _bound_of_sources(stated: StatedTraining) -> int | None:
    trains = [source for source in stated.sources if source.role == "train"]
    limit = None if stated.max_examples is None or stated.max_examples.value < 1 else stated.max_examples.value
    total = 0
    for source in trains:
        split = None if source.split is None else rows_of_split(source.split.value)
        bounds = [bound for bound in (split, limit) if bound is not None]
        if not bounds:
            return None
        total += min(bounds)
    return total if trains else None


def _forecast(view: TrainingView, devices: Span) -> BatchForecast | None:
    """Batch one epoch of these lengths as the trainer does. None if there are too many rows."""
    stated, data = view.stated, view.data
    traits = traits_of(stated.backend)
    name = traits.loop_of or stated.backend
    if isinstance(data, Missing) or data.lengths is None or not len(data.lengths):
        return None
    if traits.is_ours or name not in batching_names():
        # touchline's trainer counts examples, packed or not. Packing changes its rows and not its steps.
        return None
    longest, together = stated.max_seq_len, _step_rows(stated, devices.low) // devices.low
    if together < 1 or len(data.lengths) > _SIMULATED_ROWS:
        return None
    # Packs and steps depend on the rows of a step alone, so an open micro-batch size may be all of a device's.
    micro = together if stated.micro_batch_size is None else stated.micro_batch_size.value
    width = max(int(data.lengths.max()), 2) if longest is None or longest.value < 2 else longest.value
    settings = BatchSettings(
        max_seq_len=width,
        packed=stated.packed is not None and stated.packed.value,
        micro_batch_size=micro,
        gradient_accumulation_steps=max(together // micro, 1),
        data_parallel_size=devices.low,
    )
    return batching_of(name).forecast(np.maximum(data.lengths, 1).astype(np.uint32), settings)


def _rows(
    view: TrainingView, examples: Span | Missing, forecast: BatchForecast | None, *, packed: bool
) -> tuple[Span | Missing, float | None]:
    ours = traits_of(view.stated.backend).is_ours
    if forecast is not None:
        return Span(low=forecast.rows, high=forecast.rows), forecast.density
    if isinstance(examples, Missing) or not packed or ours:
        return examples, None if packed and not ours else 1.0
    # Each example makes at most one row of its own. The density is unknown without lengths.
    return Span(low=1 if examples.low else 0, high=examples.high), None


def _steps_per_epoch(
    stated: StatedTraining,
    rows: Span | Missing,
    per_step: Span | Missing,
    devices: Span,
    forecast: BatchForecast | None,
) -> Span | Missing:
    if isinstance(rows, Missing):
        return rows
    if isinstance(per_step, Missing):
        return per_step
    traits = traits_of(stated.backend)
    if forecast is not None and traits.steps_are_simulated and devices.high is not None:
        return Span(low=forecast.steps_low, high=forecast.steps_high)

    def count(rows: int, devices: int) -> int:
        step_rows = _step_rows(stated, devices)
        return optimizer_steps(rows, step_rows, devices=devices, drops_incomplete=traits.drops_incomplete)

    low = count(rows.low, devices.high) if devices.high is not None else min(1, count(rows.low, devices.low))
    if devices.high is None and traits.drops_incomplete:
        low = 0
    return Span(low=low, high=None if rows.high is None else count(rows.high, devices.low))


def _steps(stated: StatedTraining, per_epoch: Span | Missing) -> Span | Missing:
    most = stated.max_steps.value if stated.max_steps is not None and stated.max_steps.value > 0 else None
    if most is not None and traits_of(stated.backend).hf_loop:
        return Span(low=most, high=most)
    epochs = stated.epochs.value if stated.epochs is not None else None
    if isinstance(per_epoch, Missing) or epochs is None or epochs < 0:
        if most is not None:
            return Span(low=0, high=most)
        return per_epoch if isinstance(per_epoch, Missing) else Missing(missing="the epochs are not stated")
    low = math.ceil(per_epoch.low * epochs)
    high = None if per_epoch.high is None else math.ceil(per_epoch.high * epochs)
    if most is not None:
        low, high = min(low, most), most if high is None else min(high, most)
    return Span(low=low, high=high)


def _longest(view: TrainingView) -> int | None:
    data, limit = view.data, view.stated.max_seq_len
    if isinstance(data, Missing):
        return None
    known = data.lengths is not None and len(data.lengths) > 0
    longest = int(data.lengths.max()) if data.lengths is not None and known else data.longest_rendered
    if longest is None:
        return None
    return longest if limit is None or limit.value < 1 else min(longest, limit.value)
