"""Batches of a trainer: sequences, micro-batches and steps as simulated, the exact order of ours, isolation tests."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from touchline.core.estimate import MicroBatch
from touchline.experiment.training import TrainConfig, accumulation_steps, optimizer_steps


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
    """Simulation of a trainer's batching: `BATCHING` of a backend's `data.py`."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingMode:
    """Method of isolating packed examples, as used by trainers."""

    name: str
    """Inputs of the model: `block mask`, `positions`, `positions and a mask of ones`, `nothing`."""
    used_by: str
    """Trainers that use it."""
    leak: float | None
    """Largest change of an example's log-probabilities when its neighbors' tokens change, in nats. None if untested."""
    difference: float | None
    """Largest difference of an example's log-probabilities between packed and alone, in nats. None if untested."""
    isolated: bool
    """Whether both are within rounding."""
    note: str | None = None
    """Reason why it was not tested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolationCheck:
    """Result for an architecture."""

    model_type: str
    """`model_type` of its config."""
    layers: int
    """Layers of the small model."""
    attention: str
    """Tested attention implementation."""
    tolerance: float
    """Tolerance for rounding, in nats."""
    versions: dict[str, str]
    """Versions of torch and transformers."""
    ways: tuple[PackingMode, ...]
    """Methods, the safest first."""


_LARGEST: dict[tuple[str, bytes], int] = {}
"""Cache size; a plan of a thousand runs needs few distinct results."""
_LARGEST_LIMIT = 1024
_SCHEME = b"touchline batches 1: PCG64 permutation per epoch, consecutive"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchPlan:
    """All micro-batches of a run."""

    orders: tuple[NDArray[np.uint32], ...]
    """Order of the examples in each epoch; shape [examples]."""
    global_batch_size: int
    micro_batch_size: int
    digest: str

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch; the last may hold fewer examples."""
        return optimizer_steps(len(self.orders[0]), self.global_batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps_per_epoch * len(self.orders)

    @property
    def micro_batches(self) -> int:
        """Forward passes of the run."""
        count = len(self.orders[0])
        full, rest = divmod(count, self.global_batch_size)
        per_step = -(-self.global_batch_size // self.micro_batch_size)
        return (full * per_step + -(-rest // self.micro_batch_size)) * len(self.orders)

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 0, of an optimizer step, from 0."""
        return step // self.steps_per_epoch

    def step(self, step: int) -> tuple[NDArray[np.uint32], ...]:
        """Return the micro-batches of an optimizer step, from 0, as example indices."""
        order = self.orders[self.epoch_of(step)]
        start = step % self.steps_per_epoch * self.global_batch_size
        examples = order[start : start + self.global_batch_size]
        return tuple(examples[i : i + self.micro_batch_size] for i in range(0, len(examples), self.micro_batch_size))

    def largest_micro_batch_tokens(self, lengths: NDArray[np.uint32]) -> int:
        """Return the computed tokens of the largest unpacked micro-batch."""
        key = (self.digest, hashlib.sha256(lengths.tobytes()).digest())
        if key not in _LARGEST:
            if len(_LARGEST) >= _LARGEST_LIMIT:
                _LARGEST.clear()
            _LARGEST[key] = self._largest(lengths)
        return _LARGEST[key]

    def _largest(self, lengths: NDArray[np.uint32]) -> int:
        largest = 0
        for order in self.orders:
            ordered = lengths[order].astype(np.int64)
            for start in range(0, len(ordered), self.global_batch_size):
                step = ordered[start : start + self.global_batch_size]
                if len(step) <= self.micro_batch_size:
                    largest = max(largest, int(step.max()) * len(step))
                    continue
                edges = np.arange(0, len(step), self.micro_batch_size)
                sizes = np.diff(np.append(edges, len(step)))
                largest = max(largest, int((np.maximum.reduceat(step, edges) * sizes).max()))
        return largest


@functools.lru_cache(maxsize=64)
def _cached(num_examples: int, global_batch_size: int, micro_batch_size: int, epochs: int, seed: int) -> BatchPlan:
    generator = np.random.Generator(np.random.PCG64(seed))
    orders = tuple(generator.permutation(num_examples).astype(np.uint32) for _ in range(epochs))
    digest = hashlib.sha256(_SCHEME)
    digest.update(f"{num_examples} {global_batch_size} {micro_batch_size} {epochs}".encode())
    for order in orders:
        order.setflags(write=False)
        digest.update(order.astype("<u4").tobytes())
    return BatchPlan(
        orders=orders,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        digest=digest.hexdigest(),
    )


def plan_batches(
    lengths: NDArray[np.uint32], *, global_batch_size: int, micro_batch_size: int, epochs: int, seed: int
) -> BatchPlan:
    """Divide the examples of a run.

    Args:
        lengths: tokens of each training example, shape [examples]; only their number decides on the order.
        micro_batch_size: examples per forward pass, at most the global batch.

    Raises:
        ValueError: there are no examples, or a size is not positive.
    """
    if len(lengths) == 0 or min(global_batch_size, micro_batch_size, epochs) < 1:
        raise ValueError("batches need at least one example and sizes of at least 1")
    return _cached(len(lengths), global_batch_size, min(micro_batch_size, global_batch_size), epochs, seed)


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit`, or 1."""
    return next((candidate for candidate in range(min(number, max(limit, 1)), 0, -1) if number % candidate == 0), 1)
