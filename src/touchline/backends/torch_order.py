"""Orders of torch's samplers, without torch.

A seeded `torch.randperm` on the CPU is a Mersenne Twister with a Fisher-Yates shuffle (ATen/core/MT19937RNGEngine.h,
ATen/native/TensorFactories.cpp, torch 2.13). So the order of a seeded shuffle is known before the run.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_WORDS = 624
"""Words of the generator's state."""
_MULTIPLIER = 1812433253
"""Of its initialization (Matsumoto and Nishimura, mt19937ar.c, 2002)."""
_LONGEST = (2**32 - 1) // 20
"""From here on torch draws 64 bits an item."""


def permutation(count: int, seed: int) -> NDArray[np.int64]:
    """Return `torch.randperm(count)` of a generator with this seed, in O(count).

    Raises:
        ValueError: torch shuffles so many items in another way, which is not simulated.
    """
    if count >= _LONGEST:
        raise ValueError(f"{count} items; the order is known for fewer than {_LONGEST}")
    return _permutation(count, seed % 2**32)


@functools.lru_cache(maxsize=8)
def _permutation(count: int, seed: int) -> NDArray[np.int64]:
    left = np.arange(count, 1, -1)
    swaps: list[int] = (_draws(seed, len(left)) % left + np.arange(len(left))).tolist()
    order = list(range(count))
    for index, other in enumerate(swaps):
        order[index], order[other] = order[other], order[index]
    result = np.asarray(order, np.int64)
    result.setflags(write=False)
    return result


def _draws(seed: int, count: int) -> NDArray[np.int64]:
    """Return the generator's first 32-bit numbers, shape [count]."""
    words = [seed]
    for index in range(1, _WORDS):
        words.append((_MULTIPLIER * (words[-1] ^ (words[-1] >> 30)) + index) % 2**32)
    generator = np.random.MT19937(seed)
    generator.state = {
        "bit_generator": "MT19937",
        "state": {"key": np.asarray(words, np.uint32), "pos": _WORDS},
    }
    return generator.random_raw(count).astype(np.int64)
