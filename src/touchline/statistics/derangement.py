"""Derangements: shuffles in which no element keeps its own label, for a shuffled control."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STREAM = 0x5EED1ABE1
"""Keeps these draws independent of the others of the same seed, such as the order of the examples."""


def label_generator(seed: int) -> np.random.Generator:
    """Return the random generator of a run's shuffled control; `seed` is the run's."""
    return np.random.Generator(np.random.PCG64([_STREAM, seed]))


def derangement(count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return a permutation of `count` items without fixed points, for two or more.

    Every cyclic permutation is equally likely. Places are deranged and not values: where answers repeat, as the labels
    of a classification do, some rows get an answer of the same text, as often as chance has it. Were that ruled out,
    two balanced classes would always be swapped, and a swap is as easy to learn as the truth.

    Args:
        count: how many things.
        generator: the source of chance; the same state gives the same permutation.

    Returns:
        Shape [count]; place `i` gets what was at place `result[i]`.
    """
    order = generator.permutation(count)
    dealt = np.empty(count, dtype=np.int64)
    dealt[order] = np.roll(order, -1)
    return dealt
