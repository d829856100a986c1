"""What a trainer will make of a dataset: rows, micro-batches, steps. Every backend's batching gives this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from touchline.core.estimate import MicroBatch
from touchline.spec.experiment import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """What decides on the batches, besides the lengths."""

    max_seq_len: int
    """Tokens a row at most."""
    packed: bool
    """Whether several examples share a row."""
    micro_batch_size: int
    """Rows (examples, where nothing is packed) per forward pass and device."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimizer step."""
    data_parallel_size: int = 1
    """Devices that share a step."""
    epochs: int = 1
    """Passes over the data."""
    seed: int = 1
    """Seed of the order."""


def settings_of(train: TrainConfig, *, seed: int = 1) -> BatchSettings:
    """The settings of a training on one device.

    Args:
        train: the training, with its micro-batch and packing decided.
        seed: seed of the order.
    """
    assert isinstance(train.micro_batch_size, int)
    return BatchSettings(
        max_seq_len=train.max_seq_len,
        packed=bool(train.packed),
        micro_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=-(-train.global_batch_size // train.micro_batch_size),
        epochs=train.epochs,
        seed=seed,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchForecast:
    """One epoch of a trainer, before it runs."""

    rows: int
    """Sequences of an epoch: packs, or examples where nothing is packed."""
    lower_bound: int
    """Packs that no packer can do without; `rows` where nothing is packed."""
    examples: int
    """Examples in the rows."""
    truncated: NDArray[np.int64]
    """Indices of the examples that lose tokens."""
    dropped: NDArray[np.int64]
    """Indices of the examples that are left out."""
    answers_cut: NDArray[np.int64]
    """Of the truncated ones, those that lose tokens with a loss."""
    row_tokens: NDArray[np.int64]
    """Tokens of each row that are no padding; shape [rows], in the trainer's order before shuffling."""
    micro_batch_tokens: NDArray[np.int64]
    """Padded tokens of each micro-batch of the first epoch, in order; shape [micro-batches]."""
    largest: MicroBatch
    """The micro-batch with the most padded tokens, over all epochs."""
    steps_per_epoch: int
    """Optimizer steps, with this trainer's rounding; over several epochs the mean, rounded down."""
    steps: int
    """Optimizer steps of all epochs."""
    steps_low: int
    """`steps`, or the fewest where the order cannot be known."""
    steps_high: int
    """`steps`, or the most where the order cannot be known."""
    rows_left_over: int
    """Rows of an epoch that no step uses."""
    notes: tuple[str, ...] = ()
    """What this trainer does that one would not expect, in words: `the last 3 of 20 packs are never used`."""
    computed_real_tokens: int | None = None
    """Of the tokens computed in the first epoch, those that are no padding; none: those of all rows. It differs where a
    trainer leaves rows out, or repeats some so that each device has as many."""

    @property
    def density(self) -> float:
        """Examples a row."""
        return self.examples / self.rows if self.rows else 0.0

    @property
    def padded_tokens(self) -> int:
        """Tokens computed in the first epoch, padding included."""
        return int(self.micro_batch_tokens.sum())

    @property
    def efficiency(self) -> float:
        """Share of the computed tokens that are no padding, 0 to 1."""
        real = int(self.row_tokens.sum()) if self.computed_real_tokens is None else self.computed_real_tokens
        return real / self.padded_tokens if self.padded_tokens else 0.0


class Batching(Protocol):
    """A trainer's own batching, simulated: `BATCHING` of a backend's `batching.py`."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """What it makes of these examples.

        Args:
            lengths: tokens of each example in the dataset's order, shape [examples]; each at least 1.
            settings: the settings.
            labels: of these, tokens with a loss, the last ones of each example; shape [examples]. None: all of them.
        """
        ...
