"""Format of scores: shares in per cent and points, all others unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from touchline.core.quantity import Missing, Quantity
from touchline.core.units import between, percent

_SHARES = ("match", "accuracy", "correct")
"""Parts of the names of scores that are shares of right answers, also averaged over repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Format of an analysis's scores: shares in per cent and points, all others unchanged."""

    share: bool
    """Whether the scores are shares of right answers."""

    def value(self, score: float) -> str:
        """Return `90.5%`, or `0.905`."""
        return percent(score) if self.share else f"{score:.3f}"

    def quantity(self, score: Quantity | Missing, counted: str = "") -> str | Missing:
        """Return `90.5% (85.6 to 93.8)`, with counts inside the parentheses."""
        if isinstance(score, Missing):
            return score
        ends = between(score.low, score.high, self.end)
        return self.value(score.value) + (f"{ends[:-1]}; {counted})" if ends and counted else ends)

    def span(self, low: float, high: float) -> str:
        """Return `85.6 to 93.8%`, or `0.856 to 0.938`."""
        return f"{self.end(low)} to {self.end(high)}" + ("%" if self.share else "")

    def end(self, score: float) -> str:
        """Return an end of an interval of scores, without a unit."""
        return f"{100 * score:.1f}" if self.share else f"{score:.3f}"

    def change(self, value: float) -> str:
        """Return a difference with its sign and without a unit: `+70.0`, or `+0.700`."""
        return _signed(100 * value, 1) if self.share else _signed(value, 3)

    def size(self, difference: float) -> str:
        """Return `8.2 points`, without a sign."""
        return f"{100 * difference:.1f} points" if self.share else f"{difference:.3f}"

    def difference(self, value: float) -> str:
        """Return `+70.0 points`, or `+0.700`."""
        return self.change(value) + (" points" if self.share else "")

    def possible(self, low: float, high: float) -> tuple[float, float]:
        """Return the possible part of a difference's interval: no shares differ by more than 100 points."""
        return (max(low, -1.0), min(high, 1.0)) if self.share else (low, high)

    def ends(self, low: float, high: float) -> str:
        """Return the possible part of a difference's interval: `+62.4 to +75.9`."""
        return " to ".join(map(self.change, self.possible(low, high)))


def scale_of_score(name: str, means: Iterable[float], *, is_binary: bool) -> Scale:
    """Return the scale of a score, the same on every surface: a score of its own is no share, though it be 0 to 1.

    Args:
        name: its name.
        means: the runs' scores.
        is_binary: whether every item is right or wrong.
    """
    return Scale(share=is_binary or (any(word in name for word in _SHARES) and all(0 <= mean <= 1 for mean in means)))


def _signed(value: float, digits: int) -> str:
    """Return a value with its sign. A value that rounds to 0 is `+0.0`, never `-0.0`."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
