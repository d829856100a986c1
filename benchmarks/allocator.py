"""A replay of PyTorch's caching allocator on the loss of micro-batches of many sizes.

    python benchmarks/allocator.py

Rules of c10/cuda/CUDACachingAllocator.cpp, torch 2.1 to 2.13, default settings, large tensors: sizes are rounded up to
512 bytes; the smallest free block that holds a tensor is taken, and split where more than 1 MiB is left; where none
does, a segment of 20 MiB, or from 10 MiB on of the size rounded up to 2 MiB, is reserved; neighbours that are free
become one. The tensors are those of a float32 loss under autocast on 16-bit logits, in the order of the code.

Printed for orders of several kinds of lengths: the sum of all micro-batches that outgrow those before them, over the
largest, as counted and as `outgrown_of` expects it; bytes per vocabulary entry reserved at each of these but the
largest; and how many others took a new block. Exit code 1: any did.
"""

from __future__ import annotations

import bisect
import random
import statistics
import sys
from collections.abc import Sequence

import numpy as np

from touchline.estimate.spreads import outgrown_of

MIB = 1 << 20
VOCABULARY = 152_000


class Allocator:
    """Blocks of segments; all larger than 1 MiB."""

    def __init__(self) -> None:
        self.reserved = self.allocated = self.peak = 0
        self._free: list[tuple[int, int]] = []
        self._size: dict[int, int] = {}
        self._before: dict[int, int | None] = {}
        self._after: dict[int, int | None] = {}
        self._names = 0

    def take(self, size: int) -> int:
        """Allocate a tensor; return its block."""
        size = -(-size // 512) * 512
        at = bisect.bisect_left(self._free, (size, 0))
        if at < len(self._free):
            _, block = self._free.pop(at)
        else:
            segment = 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            self.reserved += segment
            block = self._block(segment, None, None)
        rest = self._size[block] - size
        if rest > MIB:
            after = self._after[block]
            other = self._block(rest, block, after)
            if after is not None:
                self._before[after] = other
            self._after[block], self._size[block] = other, size
            bisect.insort(self._free, (rest, other))
        self.allocated += self._size[block]
        self.peak = max(self.peak, self.allocated)
        return block

    def give(self, *blocks: int) -> None:
        """Free tensors."""
        for block in blocks:
            self.allocated -= self._size[block]
            self._join(block, self._after[block])
            before = self._before[block]
            merged = block
            if before is not None and (self._size[before], before) in self._free:
                self._free.remove((self._size[before], before))
                self._absorb(before, block)
                merged = before
            bisect.insort(self._free, (self._size[merged], merged))

    def _block(self, size: int, before: int | None, after: int | None) -> int:
        self._names += 1
        self._size[self._names], self._before[self._names], self._after[self._names] = size, before, after
        return self._names

    def _join(self, block: int, after: int | None) -> None:
        if after is not None and (self._size[after], after) in self._free:
            self._free.remove((self._size[after], after))
            self._absorb(block, after)

    def _absorb(self, block: int, after: int) -> None:
        self._size[block] += self._size.pop(after)
        following = self._after.pop(after)
        self._before.pop(after)
        self._after[block] = following
        if following is not None:
            self._before[following] = block


def loss(allocator: Allocator, tokens: int, *, copies: bool) -> None:
    """The loss of a micro-batch, forward and backward; with several rows the shifted logits are a copy."""
    entries = tokens * VOCABULARY
    take, give = allocator.take, allocator.give
    logits = take(2 * entries)
    shifted = [take(2 * entries)] if copies else []
    wide = take(4 * entries)
    probabilities = take(4 * entries)
    give(wide, *shifted)
    output = take(4 * entries)
    give(logits, output)
    gradient = take(4 * entries)
    inner = take(4 * entries)
    give(gradient, probabilities)
    narrow = take(2 * entries)
    give(inner)
    last = take(2 * entries)
    give(narrow, last)


def replay(tokens: Sequence[int], *, copies: bool = False) -> tuple[float, float, int]:
    """Replay micro-batches in their order.

    Returns:
        The sum of those that outgrow all before them over the largest; bytes per token and vocabulary entry that the
        allocator keeps of each of these but the largest; how many others took a new block.
    """
    allocator, largest, grown, others = Allocator(), 0, 0, 0
    for each in tokens:
        before = allocator.reserved
        loss(allocator, each, copies=copies)
        if each > largest:
            largest, grown = each, grown + each
        else:
            others += allocator.reserved > before
    kept = (allocator.reserved - allocator.peak) / VOCABULARY / max(1, grown - largest)
    return grown / largest, kept, others


def main() -> int:
    """Print the table; tell whether only micro-batches that outgrow all before them take new blocks."""
    kinds = {
        "uniform": lambda chance: chance.randint(50, 2048),
        "few long": lambda chance: int(min(2048, max(20, chance.lognormvariate(5, 0.8)))),
        "many long": lambda chance: int(2048 * chance.random() ** 0.25) + 1,
    }
    print(f"{'lengths':<12}{'count':>6}{'outgrown':>10}{'expected':>10}{'bytes an entry, 5 to 95 %':>28}{'others':>8}")
    wrong = 0
    for name, draw in kinds.items():
        for count in (100, 1000):
            found, expected = [], []
            for seed in range(20):
                chance = random.Random(seed)  # noqa: S311 (an order of a benchmark)
                tokens = [draw(chance) for _ in range(count)]
                found.append(replay(tokens))
                expected.append(outgrown_of(np.array(tokens))[0])
            sums, kept, others = zip(*found, strict=True)
            # Where the first is nearly the largest, a few bytes are over a few tokens.
            kept = [each for each, total in zip(kept, sums, strict=True) if total > 1.5]
            ends = statistics.quantiles(kept, n=20)
            wrong += sum(others)
            print(
                f"{name:<12}{count:>6}{statistics.mean(sums):>10.2f}{statistics.mean(expected):>10.2f}"
                f"{f'{statistics.median(kept):.1f} ({ends[0]:.1f} to {ends[-1]:.1f})':>28}{sum(others):>8}"
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
