"""Lower bounds on the number of packed sequences.

The bound of Martello and Toth (L2: "Lower bounds and reduction procedures for the bin packing problem", Discrete
Applied Mathematics 28, 1990) counts what cannot share a pack; its strengthening by rounding (the functions u^(k) of
Fekete and Schepers, "New classes of fast lower bounds for bin packing problems", Mathematical Programming 91, 2001)
adds that at most k items longer than 1/(k+1) of a pack share one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from touchline.data.packing.lengths import Histogram

_ROUNDINGS = 24
"""Largest k of u^(k). For shorter items the sum of the lengths is nearly exact."""


def lower_bound(histogram: Histogram, max_seq_len: int) -> int:
    """Return a lower bound on the sequences for these lengths; at least ceil(tokens / max_seq_len).

    O(distinct lengths), for each of a fixed number of roundings. The lengths are at most `max_seq_len`.
    """
    if len(histogram.lengths) == 0:
        return 0
    lengths, counts = histogram.lengths, histogram.counts
    best = -(-histogram.tokens // max_seq_len)
    # Lengths above L - alpha are alone with anything from alpha up: they count as whole packs and leave the rest.
    alphas = np.concatenate([[0], lengths[lengths <= max_seq_len // 2]])
    first = np.searchsorted(lengths, alphas, side="left")
    last = np.searchsorted(lengths, max_seq_len - alphas, side="right")
    above = np.concatenate([[0], np.cumsum(counts)])
    whole = above[-1] - above[last]
    best = max(best, _martello_toth(lengths, counts, max_seq_len, first, last, whole))
    for k in range(2, min(_ROUNDINGS, max_seq_len // int(lengths[0])) + 1):
        # u^(k)(x) times k L: whole numbers, so that nothing is rounded that the proof does not round.
        scaled = (k + 1) * lengths
        values = np.where(scaled % max_seq_len == 0, k * lengths, scaled // max_seq_len * max_seq_len)
        cumulated = np.concatenate([[0], np.cumsum(values * counts)])
        sums = cumulated[last] - cumulated[first]
        best = max(best, int((whole + -(-sums // (k * max_seq_len))).max()))
    return best


def _martello_toth(
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    max_seq_len: int,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    whole: NDArray[np.int64],
) -> int:
    number = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([[0], np.cumsum(counts * lengths)])
    half = int(np.searchsorted(lengths, max_seq_len // 2, side="right"))
    # alpha <= L / 2 <= L - alpha, so first <= half <= last; where alpha is exactly L / 2 nothing lies between.
    last = np.maximum(last, half)
    large = number[last] - number[half]
    room = large * max_seq_len - (tokens[last] - tokens[half])
    small = tokens[half] - tokens[first]
    rest = np.maximum(0, -(-(small - room) // max_seq_len))
    return int((whole + large + rest).max())
