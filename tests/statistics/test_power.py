"""Sample sizes against published numbers, against exact tests, and against themselves turned round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.statistics.power import (
    items_for_difference,
    items_for_paired_difference,
    smallest_difference,
    smallest_paired_difference,
)

pytestmark = pytest.mark.planning


def test_paired_sizes_are_those_of_the_literature() -> None:
    """McNemar at 80% power: 3 points with 6% and 15% of flips, 1 point with 3%."""
    assert items_for_paired_difference(0.03, 0.06) == 521
    assert items_for_paired_difference(0.03, 0.15) == 1306
    assert items_for_paired_difference(0.01, 0.03) in (2352, 2353)


def test_unpaired_sizes_are_those_of_the_literature() -> None:
    """Two shares at 80% power: the textbook's 50% against 60% and 25% against 40%."""
    assert items_for_difference(0.1) == 388
    assert items_for_difference(0.15, share=0.25) == 152


def test_unpaired_size_gives_the_power_that_it_says() -> None:
    """The exact power of the two-share z test at the size for 40% against 60% is near 80%."""
    from scipy.stats import binom

    n = items_for_difference(0.2, share=0.4)
    counts = range(n + 1)
    first, second = binom.pmf(counts, n, 0.4), binom.pmf(counts, n, 0.6)
    power = 0.0
    for a in counts:
        for b in counts:
            mean = (a + b) / (2 * n)
            spread = (2 * mean * (1 - mean) / n) ** 0.5
            if spread and abs(a - b) / n / spread > 1.959964:
                power += float(first[a] * second[b])
    assert power == pytest.approx(0.8, abs=0.02)


@given(st.integers(20, 100_000), st.floats(0.01, 0.99))
def test_the_smallest_difference_is_what_so_many_items_show(items: int, share: float) -> None:
    """A hair more is enough, a hundredth less is not."""
    found = smallest_difference(items, share=share)
    room = max(share, 1 - share)
    assert found == pytest.approx(room) or items_for_difference(min(room, found * 1.0001), share=share) <= items
    assert items_for_difference(found * 0.98, share=share) >= items


@given(st.integers(5, 100_000), st.floats(0.01, 1))
def test_the_smallest_paired_difference_is_what_so_many_items_show(items: int, flips: float) -> None:
    """The same for pairs; none when not even flips of one kind only are enough."""
    found = smallest_paired_difference(items, flips)
    if found is None:
        assert items_for_paired_difference(flips, flips) > items
    else:
        assert items_for_paired_difference(found, flips) <= items
        assert items_for_paired_difference(found * 0.98, flips) >= items


@pytest.mark.parametrize(
    "call",
    [
        lambda: items_for_difference(0),
        lambda: items_for_difference(0.9, share=0.5),
        lambda: items_for_difference(0.1, power=0.2),
        lambda: items_for_paired_difference(0.2, 0.1),
        lambda: items_for_paired_difference(0.2, 1.1),
    ],
)
def test_what_is_no_question_is_refused(call: object) -> None:
    """Shares outside 0 to 1, differences larger than the flips."""
    assert callable(call)
    with pytest.raises(ValueError, match=r"difference|power|quantile"):
        call()
