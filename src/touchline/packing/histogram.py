"""The packer: the fewest packs that it finds, on the histogram of the lengths, beside a bound on how few are possible.

Best-fit decreasing first; where it needs more than the bound, first-fit decreasing, exact filling longest first, and
exact filling from the most numerous lengths, each as long as it may still win. The best is kept, so that it is never
worse than best-fit or first-fit decreasing of the single examples. Budgets are operation counts: the same lengths give
the same packs on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from touchline.packing.bounds import lower_bound
from touchline.packing.exact_fill import ExactFill
from touchline.packing.filling import CALL_OPERATIONS, Filler, fill
from touchline.packing.groups import Pattern, best_fit_groups, first_fit_groups
from touchline.packing.lengths import Histogram
from touchline.packing.subset_fill import SubsetFill

_CLOSE = 0.001
"""Share of the bound below which what could still be won is worth a short search only: a pack in a thousand."""
_PASSES = 8
"""A search that could not look at every length so many times is left out."""


@dataclass(frozen=True, slots=True)
class _Search:
    words: str
    operations: int
    """Budget."""
    operations_close: int
    """Budget where the packing is close to the bound already."""
    filler: Callable[[Histogram, int], Filler]


_SEARCHES = (
    _Search("exact fill, longest first", 20_000_000, 10_000_000, ExactFill),
    _Search("exact fill, most numerous first", 8_000_000, 500_000, partial(SubsetFill, repeat_share=1)),
    _Search("exact fill, most numerous first", 4_000_000, 500_000, partial(SubsetFill, repeat_share=2)),
)
"""In this order. A million operations are some milliseconds; the budgets keep a million examples below 0.2 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Which lengths go together, and how often; not yet which examples."""

    patterns: tuple[Pattern, ...]
    """The packs, in an order in which each one's longest example would fit into none before it."""
    max_seq_len: int
    """Tokens a pack at most."""
    packs: int
    """How many there are."""
    lower_bound: int
    """Packs that no packing can do without."""
    examples: int
    """Examples in the packs."""
    tokens: int
    """Tokens in the packs."""
    method: str
    """What found it, in words."""

    @property
    def optimal(self) -> bool:
        """Whether it is proved that fewer packs are impossible."""
        return self.packs == self.lower_bound

    @property
    def gap(self) -> int:
        """Packs above the bound: at most so many could be saved."""
        return self.packs - self.lower_bound

    @property
    def density(self) -> float:
        """Examples a pack."""
        return self.examples / self.packs if self.packs else 0.0

    @property
    def efficiency(self) -> float:
        """Share of the tokens of full packs that are no padding, 0 to 1."""
        return self.tokens / (self.packs * self.max_seq_len) if self.packs else 0.0


def pack_histogram(histogram: Histogram, max_seq_len: int, *, search: bool = True) -> Packing:
    """The fewest packs that are found for these lengths, each at most `max_seq_len` (`count_lengths` sees to it).

    Costs some operations for each distinct length where best-fit decreasing meets the bound; otherwise as much as the
    budgets allow. Without `search` it is best-fit decreasing alone, for what need not be the last word.
    """
    bound = lower_bound(histogram, max_seq_len)
    best, method = best_fit_groups(histogram, max_seq_len), "best-fit decreasing"
    packs = _count(best)
    if search and packs > bound:
        other = first_fit_groups(histogram, max_seq_len)
        if _count(other) < packs:
            best, packs, method = other, _count(other), "first-fit decreasing"
    each_pass = len(histogram.lengths) * (CALL_OPERATIONS + max_seq_len // 64)
    for way in _SEARCHES if search else ():
        if packs == bound:
            break
        operations = way.operations_close if packs - bound <= _CLOSE * bound else way.operations
        if _PASSES * each_pass > operations:
            continue
        found = fill(
            way.filler(histogram, max_seq_len), histogram, max_seq_len, fewer_than=packs, operations=operations
        )
        if found is not None:
            best, packs, method = found, _count(found), way.words
    return Packing(
        patterns=tuple(best),
        max_seq_len=max_seq_len,
        packs=packs,
        lower_bound=bound,
        examples=histogram.examples,
        tokens=histogram.tokens,
        method=method,
    )


def _count(patterns: list[Pattern]) -> int:
    return sum(pattern.packs for pattern in patterns)
