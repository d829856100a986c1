"""Micro-batches that are larger than every one before them, which the allocator's cache keeps blocks of.

PyTorch's allocator gives a tensor the smallest free block that holds it, and asks the driver for a new one where none
does. The blocks that the logits of a smaller micro-batch left are too small for those of a larger one. So each
micro-batch that outgrows all before it takes new blocks. The old ones stay reserved, and are given back where memory
runs out. A replay of these rules (`benchmarks/allocator.py`) takes new blocks at no other micro-batch, and at each of
these as many bytes as its logits need.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

ONE_SIZE: Final = (1.0, 1.0)
"""Padded tokens of all micro-batches that are larger than every one before them, over those of the largest: usual, and
most. So where all have one size."""
NOT_TOLD: Final = (1.0, 2.0)
"""The same where nothing is known of the lengths: at most one earlier micro-batch that is nearly as large. A choice."""
USUAL_COUNT: Final = 1000
"""Micro-batches of an epoch where their number is not known. A choice: ten times as many add 2.3 at most."""


def outgrown_of(tokens: NDArray[np.int64]) -> tuple[float, float]:
    """Return the same of micro-batches in any order: its mean over all orders, for both.

    Of the k largest sizes, the smallest outgrows all before it if it comes first, with probability 1/k. Equal sizes
    count as one, which comes first as often as there are of it.

    Args:
        tokens: padded tokens of the micro-batches; shape [micro-batches], at least one.
    """
    sizes, counts = np.unique(tokens, return_counts=True)
    counts = counts[::-1]
    mean = float((sizes[::-1] * counts / np.cumsum(counts)).sum() / sizes[-1])
    return mean, mean


def lengths_of_mean(longest: int, mean: float, count: int = USUAL_COUNT) -> NDArray[np.int64]:
    """Return typical lengths with a mean: the longest times a power of numbers between 0 and 1; shape [count]."""
    power = longest / mean - 1
    levels = ((np.arange(count) + 0.5) / count) ** power
    return np.maximum(1, np.ceil(longest * levels)).astype(np.int64)


def widths_of(lengths: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the typical widths of micro-batches of so many rows in a random order; shape [micro-batches].

    The longest of `rows` lengths exceeds a share u of all lengths with probability 1 - u^rows.

    Args:
        lengths: tokens of the examples; shape [examples], at least one.
    """
    count = max(1, len(lengths) // rows)
    levels = ((np.arange(count) + 0.5) / count) ** (1 / rows)
    ranks = np.minimum((levels * len(lengths)).astype(np.int64), len(lengths) - 1)
    ranks[-1] = len(lengths) - 1
    return np.sort(lengths)[ranks]
