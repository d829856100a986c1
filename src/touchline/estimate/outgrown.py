"""Micro-batches that are larger than every one before them, which the allocator's cache keeps blocks of.

PyTorch's allocator gives a tensor the smallest free block that holds it, and asks the driver for a new one where none
does. Blocks of logits that an earlier, smaller micro-batch left are all too small for a larger one, so each micro-batch
that outgrows all before it takes new blocks, and the old ones stay reserved until memory runs out. Only then are they
given back. A replay of the allocator's rules on the loss of a training step takes no new block at any other
micro-batch, and at each of these as many bytes as the logits need (`benchmarks/held_out.py --replay`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

NOT_TOLD: Final = 2.0
"""Where nothing is known of the sizes: one earlier micro-batch that is nearly as large. A choice."""
USUAL_COUNT: Final = 1000
"""Micro-batches of an epoch where their number is not known. A choice: ten times as many add 2.3 at most."""


def in_order(tokens: NDArray[np.int64]) -> float:
    """Return the tokens of all micro-batches that outgrow those before them, over those of the largest.

    Args:
        tokens: padded tokens of the micro-batches in their order; shape [micro-batches], at least one.
    """
    largest = np.maximum.accumulate(tokens)
    outgrows = np.append(True, largest[1:] > largest[:-1])
    return float(largest[outgrows].sum() / largest[-1])


def in_any_order(tokens: NDArray[np.float64]) -> float:
    """Return the mean of the same over all orders.

    Of the k largest sizes, the smallest outgrows all before it if it comes first, with probability 1/k. Equal sizes
    count as one, which comes first as often as there are of it.

    Args:
        tokens: padded tokens of the micro-batches; shape [micro-batches], at least one.
    """
    sizes, counts = np.unique(tokens, return_counts=True)
    counts = counts[::-1]
    return float((sizes[::-1] * counts / np.cumsum(counts)).sum() / sizes[-1])


def of_mean(longest: int, mean: float, rows: int, count: int = USUAL_COUNT) -> float:
    """Return the same where only the mean length is known.

    Lengths are taken as the longest times a power of a number that is uniform between 0 and 1, which has the mean.

    Args:
        longest: tokens of the longest example.
        mean: mean tokens of an example.
        rows: examples of a micro-batch, padded to its longest.
        count: micro-batches.
    """
    power = longest / min(mean, longest) - 1
    levels = ((np.arange(count) + 0.5) / count) ** (power / rows)
    return in_any_order(np.maximum(1.0, np.ceil(longest * levels)))
