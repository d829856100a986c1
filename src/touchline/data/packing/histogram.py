"""Packer on the histogram of the lengths: the fewest packed sequences found, and a lower bound.

Best-fit decreasing first; where it needs more than the bound, exact filling longest first, first-fit decreasing, and
exact filling from the most numerous lengths, each as long as it may still win. The best is kept, so that it is never
worse than best-fit or first-fit decreasing of the single examples. Budgets are operation counts: the same lengths give
the same packs on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from touchline.data.packing.bounds import lower_bound
from touchline.data.packing.exact_fill import ExactFill
from touchline.data.packing.groups import CALL_OPERATIONS, Filler, Pattern, best_fit_groups, fill, first_fit_groups
from touchline.data.packing.lengths import Histogram
from touchline.data.packing.subset_fill import SubsetFill

_CLOSE = 0.001
"""Fraction of the bound below which only a short search is worthwhile: one sequence in a thousand."""
_PASSES = 8
"""A search that cannot look at every length this many times is skipped."""


@dataclass(frozen=True, slots=True)
class _Search:
    words: str
    filler: Callable[[Histogram, int], Filler]
    operations: int
    """Budget."""
    operations_close: int
    """Budget if the packing is already close to the bound."""


_LONGEST = _Search("exact fill, longest first", ExactFill, 20_000_000, 10_000_000)
_NUMEROUS = (
    _Search("exact fill, most numerous first", partial(SubsetFill, repeat_share=1), 8_000_000, 500_000),
    _Search("exact fill, most numerous first", partial(SubsetFill, repeat_share=2), 4_000_000, 500_000),
)
"""A million operations are some milliseconds; the budgets keep a million examples below 0.2 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Lengths that are packed together, not yet the examples."""

    patterns: tuple[Pattern, ...]
    """Sequences, in an order in which each one's longest example fits into none before it."""
    max_seq_len: int
    """Maximum tokens per sequence."""
    packs: int
    """Number of packed sequences."""
    lower_bound: int
    """Lower bound on the number of sequences."""
    examples: int
    """Number of examples."""
    tokens: int
    """Number of tokens."""
    method: str
    """Name of the method."""

    @property
    def optimal(self) -> bool:
        """Return True if fewer sequences are proved impossible."""
        return self.packs == self.lower_bound

    @property
    def gap(self) -> int:
        """Return the number of sequences above the lower bound."""
        return self.packs - self.lower_bound

    @property
    def density(self) -> float:
        """Return the examples per sequence."""
        return self.examples / self.packs if self.packs else 0.0

    @property
    def efficiency(self) -> float:
        """Return the fraction of non-padding tokens, 0 to 1."""
        return self.tokens / (self.packs * self.max_seq_len) if self.packs else 0.0


class _Found:
    """Packing and the method that found it."""

    __slots__ = ("method", "packs", "patterns")

    def __init__(self, patterns: list[Pattern], method: str) -> None:
        self.patterns = patterns
        self.method = method
        self.packs = sum(pattern.packs for pattern in patterns)

    def __lt__(self, other: _Found) -> bool:
        return self.packs < other.packs


def pack_histogram(histogram: Histogram, max_seq_len: int, *, search: bool = True) -> Packing:
    """Return the fewest sequences found for these lengths, each at most `max_seq_len`.

    Costs some operations for each distinct length where best-fit decreasing meets the bound; otherwise as much as the
    budgets allow. Without `search` it is best-fit decreasing alone, for what need not be the last word.
    """
    bound = lower_bound(histogram, max_seq_len)
    best = _Found(best_fit_groups(histogram, max_seq_len), "best-fit decreasing")
    if search:
        best = _try(_LONGEST, histogram, max_seq_len, best, bound)
        if best.packs > bound:
            best = min(best, _Found(first_fit_groups(histogram, max_seq_len), "first-fit decreasing"))
        for way in _NUMEROUS:
            best = _try(way, histogram, max_seq_len, best, bound)
    return Packing(
        patterns=tuple(best.patterns),
        max_seq_len=max_seq_len,
        packs=best.packs,
        lower_bound=bound,
        examples=histogram.examples,
        tokens=histogram.tokens,
        method=best.method,
    )


def _try(search: _Search, histogram: Histogram, max_seq_len: int, best: _Found, bound: int) -> _Found:
    """Return the better of the known packing and the search's, if a search is worthwhile."""
    operations = search.operations_close if best.packs - bound <= _CLOSE * bound else search.operations
    each_pass = len(histogram.lengths) * (CALL_OPERATIONS + max_seq_len // 64)
    if best.packs == bound or _PASSES * each_pass > operations:
        return best
    filler = search.filler(histogram, max_seq_len)
    found = fill(filler, histogram, max_seq_len, fewer_than=best.packs, operations=operations)
    return best if found is None else _Found(found, search.words)
