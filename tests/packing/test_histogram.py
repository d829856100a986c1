"""The packer on the histogram of the lengths."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.packing import by_item
from tests.packing.cases import CASES, LARGE_CASES, MILLION_CASES, PackingCase
from tests.packing.drawn import problems

from touchline.data.packing.groups import Filler, Pattern, best_fit_groups, fill, first_fit_groups
from touchline.data.packing.histogram import ExactFill, SubsetFill, pack_histogram
from touchline.data.packing.lengths import Histogram, count_lengths

pytestmark = pytest.mark.planning

Problem = tuple[list[int], int]
PROVED = {
    "capitalization 35-45, 8,000 at 512",
    "capitalization 35-45, 8,000 at 1024",
    "capitalization 35-45, 8,000 at 2048",
    "capitalization 35-45, 8,000 at 4096",
    "capitalization 35-45, 100,000 at 512",
    "capitalization 35-45, 1,000,000 at 2048",
    "lognormal, mean 400, 8,000 at 2048",
    "lognormal, mean 400, 8,000 at 4096",
    "uniform 1-2048, 100,000 at 2048",
    "uniform 100-200, 50,000 at 2048",
    "uniform 300-700, 20,000 at 2048",
    "two lengths 130/700, 8,000 at 2048",
}
"""Cases whose packing is proved optimal."""


def contents(patterns: Sequence[Pattern]) -> Counter[int]:
    """Length -> how many of it the packs hold."""
    held: Counter[int] = Counter()
    for pattern in patterns:
        for length, number in pattern.parts:
            held[length] += number * pattern.packs
    return held


def check(patterns: Sequence[Pattern], lengths: Sequence[int], max_seq_len: int) -> None:
    """Every example once, no pack too full, and none with room for the longest of one opened after it."""
    assert contents(patterns) == Counter(lengths)
    assert all(pattern.packs >= 1 and 0 < pattern.tokens <= max_seq_len for pattern in patterns)
    assert all(number >= 1 for pattern in patterns for _, number in pattern.parts)
    assert all(list(pattern.parts) == sorted(pattern.parts, reverse=True) for pattern in patterns)
    for at, pattern in enumerate(patterns):
        later = [other.parts[0][0] for other in patterns[at + 1 :]] + [pattern.parts[0][0]] * (pattern.packs > 1)
        assert all(max_seq_len - pattern.tokens < longest for longest in later)


@given(problems())
def test_groups_need_the_packs_of_single_examples(problem: Problem) -> None:
    """Best-fit and first-fit decreasing on a histogram are those of the definition."""
    lengths, max_seq_len = problem
    histogram = count_lengths(lengths, max_seq_len)
    best, first = best_fit_groups(histogram, max_seq_len), first_fit_groups(histogram, max_seq_len)
    for patterns in (best, first):
        check(patterns, lengths, max_seq_len)
    assert sum(pattern.packs for pattern in best) == by_item.best_fit_decreasing(lengths, max_seq_len)
    assert sum(pattern.packs for pattern in first) == by_item.first_fit_decreasing(lengths, max_seq_len)


@given(problems())
def test_the_packer_is_at_or_below_both_and_at_or_above_the_bound(problem: Problem) -> None:
    """Whatever the lengths, it is no worse than what trainers do, and tells how far from optimal it may be."""
    lengths, max_seq_len = problem
    packing = pack_histogram(count_lengths(lengths, max_seq_len), max_seq_len)
    check(packing.patterns, lengths, max_seq_len)
    assert packing.packs == sum(pattern.packs for pattern in packing.patterns)
    assert packing.packs >= packing.lower_bound
    assert packing.packs <= by_item.best_fit_decreasing(lengths, max_seq_len)
    assert packing.packs <= by_item.first_fit_decreasing(lengths, max_seq_len)
    assert packing.optimal == (packing.gap == 0)
    assert packing.tokens == sum(lengths)
    assert packing.examples == len(lengths)


@given(problems(most=9))
def test_what_is_called_optimal_is(problem: Problem) -> None:
    """The proof holds: no packing by trying all has fewer packs."""
    lengths, max_seq_len = problem
    packing = pack_histogram(count_lengths(lengths, max_seq_len), max_seq_len)
    best = by_item.fewest(lengths, max_seq_len)
    assert packing.packs - packing.gap <= best <= packing.packs
    if packing.optimal:
        assert packing.packs == best


@given(problems(), st.sampled_from(["longest", "most numerous", "half"]), st.sampled_from([0, 50, 1_000, 10**7]))
def test_a_fill_is_a_packing_whatever_its_budget(problem: Problem, kind: str, operations: int) -> None:
    """A budget that ends half-way leaves no example out and no room that the order of opening forbids."""
    lengths, max_seq_len = problem
    patterns = fill(
        filler(kind, lengths, max_seq_len),
        count_lengths(lengths, max_seq_len),
        max_seq_len,
        fewer_than=len(lengths) + 1,
        operations=operations,
    )
    assert patterns is not None
    check(patterns, lengths, max_seq_len)


@given(problems(), st.sampled_from(["longest", "most numerous", "half"]))
def test_a_fill_that_is_no_better_is_not_given(problem: Problem, kind: str) -> None:
    """Nothing comes back unless it has fewer packs than what is there already."""
    lengths, max_seq_len = problem
    histogram = count_lengths(lengths, max_seq_len)
    least = by_item.best_fit_decreasing(lengths, max_seq_len)
    found = fill(filler(kind, lengths, max_seq_len), histogram, max_seq_len, fewer_than=least, operations=10**7)
    assert found is None or sum(pattern.packs for pattern in found) < least


def filler(kind: str, lengths: Sequence[int], max_seq_len: int) -> Filler:
    histogram = count_lengths(lengths, max_seq_len)
    if kind == "longest":
        return ExactFill(histogram, max_seq_len)
    return SubsetFill(histogram, max_seq_len, repeat_share=2 if kind == "half" else 1)


def test_lengths_are_combined_exactly_and_keep_their_mixture() -> None:
    """Longest first puts 14 and 11 together and needs a third pack; 14 with both 8s leaves room for the rest."""
    lengths = [14, 11, 10, 9, 8, 8]
    assert by_item.best_fit_decreasing(lengths, 30) == by_item.first_fit_decreasing(lengths, 30) == 3
    packing = pack_histogram(count_lengths(lengths, 30), 30)
    assert (packing.packs, packing.optimal, packing.method) == (2, True, "exact fill, longest first")
    assert {pattern.parts for pattern in packing.patterns} == {((14, 1), (8, 2)), ((11, 1), (10, 1), (9, 1))}
    # Longest first ends with packs of short examples that fill no row; most numerous first does not.
    case = next(case for case in CASES if str(case) == "capitalization 35-45, 8,000 at 512")
    histogram = count_lengths(case.lengths(), 512)
    packing = pack_histogram(histogram, 512)
    assert packing.method == "exact fill, most numerous first"
    assert packing.packs == -(-histogram.tokens // 512) < pack_histogram(histogram, 512, search=False).packs


@pytest.mark.parametrize("case", [*CASES, *LARGE_CASES, *MILLION_CASES], ids=str)
def test_each_case_is_at_or_below_best_fit_and_proved_where_it_was(case: PackingCase) -> None:
    """The cases of the benchmark: never above best-fit, and optimal with proof on most."""
    histogram = count_lengths(case.lengths(), case.max_seq_len)
    packing = pack_histogram(histogram, case.max_seq_len)
    assert contents(packing.patterns) == Counter(
        dict(zip(histogram.lengths.tolist(), histogram.counts.tolist(), strict=True))
    )
    assert packing.packs <= pack_histogram(histogram, case.max_seq_len, search=False).packs
    assert packing.optimal or str(case) not in PROVED


def test_the_same_lengths_give_the_same_packs() -> None:
    """In whatever order they come: a histogram has none."""
    lengths = CASES[-2].lengths()[:3000]
    turned = np.random.Generator(np.random.PCG64(5)).permutation(lengths)
    one, two = (pack_histogram(count_lengths(item, 4096), 4096) for item in (lengths, turned))
    assert one == two


@given(problems())
def test_the_histogram_holds_every_example(problem: Problem) -> None:
    lengths, max_seq_len = problem
    histogram = count_lengths(np.array(lengths, np.uint16), max_seq_len)
    assert dict(zip(histogram.lengths.tolist(), histogram.counts.tolist(), strict=True)) == Counter(lengths)
    assert (histogram.examples, histogram.tokens) == (len(lengths), sum(lengths))
    again = Histogram.of(Counter(lengths))
    assert np.array_equal(again.lengths, histogram.lengths)
    assert np.array_equal(again.counts, histogram.counts)


def test_very_long_examples_are_counted_without_a_table() -> None:
    """A table of ten million entries for three examples would be a waste."""
    histogram = count_lengths([10_000_000, 3, 10_000_000], 20_000_000)
    assert (histogram.lengths.tolist(), histogram.counts.tolist()) == ([3, 10_000_000], [1, 2])
    assert pack_histogram(histogram, 20_000_000).packs == 2
