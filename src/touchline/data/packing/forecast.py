"""Simulated batching of a trainer: sequences, micro-batches and steps. Every backend's batching returns this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from touchline.core.estimate import MicroBatch
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.training import accumulation_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """Settings that determine the batches, apart from the lengths."""

    max_seq_len: int
    packed: bool
    """Whether sequences hold several examples."""
    micro_batch_size: int
    """Sequences per forward pass and device."""
    gradient_accumulation_steps: int = 1
    data_parallel_size: int = 1
    epochs: int = 1
    seed: int = 1

    @property
    def global_batch_size(self) -> int:
        """Return the sequences per optimizer step."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.data_parallel_size


def settings_of(train: TrainConfig, *, seed: int = 1, devices: int = 1) -> BatchSettings:
    """Return the batch settings of a training."""
    assert isinstance(train.micro_batch_size, int)
    return BatchSettings(
        max_seq_len=train.max_seq_len,
        packed=bool(train.packed),
        micro_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=accumulation_steps(train.global_batch_size, train.micro_batch_size, devices),
        data_parallel_size=devices,
        epochs=train.epochs,
        seed=seed,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchForecast:
    """Simulated epoch of a trainer."""

    rows: int
    """Sequences per epoch."""
    lower_bound: int
    """Lower bound on packed sequences; `rows` if unpacked."""
    examples: int
    truncated: NDArray[np.int64]
    """Indices of truncated examples."""
    dropped: NDArray[np.int64]
    answers_cut: NDArray[np.int64]
    row_tokens: NDArray[np.int64]
    """Non-padding tokens per sequence; shape [rows], in the trainer's order before shuffling."""
    micro_batch_tokens: NDArray[np.int64]
    """Computed tokens per micro-batch of the first epoch, in order; shape [micro-batches]."""
    largest: MicroBatch
    steps_per_epoch: int
    """Optimizer steps per epoch, with this trainer's rounding; the mean over epochs, rounded down."""
    steps: int
    steps_low: int
    """`steps`, or the fewest if the order is unknown."""
    steps_high: int
    """`steps`, or the most if the order is unknown."""
    rows_left_over: int
    notes: tuple[str, ...] = ()
    """Unexpected behavior of this trainer: `the last 3 of 20 packs are never used`."""
    computed_real_tokens: int | None = None
    """Non-padding tokens computed in the first epoch. None for those of all sequences. It differs if a trainer drops
    sequences, or repeats some for equal counts per device."""

    @property
    def density(self) -> float:
        """Return the examples per sequence."""
        return self.examples / self.rows if self.rows else 0.0

    @property
    def padded_tokens(self) -> int:
        """Return the tokens computed in the first epoch, padding included."""
        return int(self.micro_batch_tokens.sum())

    @property
    def efficiency(self) -> float:
        """Return the fraction of non-padding tokens, 0 to 1."""
        real = int(self.row_tokens.sum()) if self.computed_real_tokens is None else self.computed_real_tokens
        return real / self.padded_tokens if self.padded_tokens else 0.0


class Batching(Protocol):
    """Simulation of a trainer's batching: `BATCHING` of a backend's `batching.py`."""

    def __hash__(self) -> int: ...

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples.

        Args:
            lengths: tokens of each example in the dataset's order, shape [examples]; each at least 1.
            labels: of these, tokens with a loss, the last ones of each example; shape [examples]. None: all of them.
        """
        ...
