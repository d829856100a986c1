"""Order of the examples and their division into optimizer steps and micro-batches.

The global batch is the science: each step holds exactly `global_batch_size` examples (the last of an epoch may hold
fewer), whatever the micro-batch size, so a change of the micro-batch for memory's sake changes nothing else. The
planner counts on this plan and the trainer consumes it; both compute it from the same arguments and compare `digest`.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.experiment.training import optimizer_steps

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
