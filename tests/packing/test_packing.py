"""Which example goes into which pack."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.packing import by_item
from tests.packing.by_item import fewest, problems
from tests.packing.cases import CASES, LARGE_CASES, MILLION_CASES, PackingCase

from touchline.data.packing.assign import OurBatching, PackPlan, hand_off, pack
from touchline.data.packing.forecast import BatchSettings, largest_divisor, plan_batches
from touchline.data.packing.groups import (
    Filler,
    Histogram,
    Pattern,
    best_fit_groups,
    count_lengths,
    fill,
    first_fit_groups,
    lower_bound,
)
from touchline.data.packing.histogram import ExactFill, SubsetFill, pack_histogram

pytestmark = pytest.mark.planning

NARROW = CASES[0].lengths()
CHATS = CASES[4].lengths()


def check(plan: PackPlan, lengths: list[int], max_seq_len: int) -> None:
    """Every example once, no pack empty or too full, and the figures are those of the packs."""
    packs = [plan.pack(number) for number in range(plan.packs)]
    assert sorted(int(index) for one in packs for index in one) == list(range(len(lengths)))
    tokens = [sum(lengths[index] for index in one) for one in packs]
    assert tokens == plan.tokens.tolist()
    assert all(0 < count <= max_seq_len for count in tokens)
    assert all([lengths[i] for i in one] == sorted((lengths[i] for i in one), reverse=True) for one in packs)
    assert plan.lower_bound <= plan.packs
    for at, number in enumerate(plan.opened):
        assert all(max_seq_len - tokens[number] < lengths[packs[later][0]] for later in plan.opened[at + 1 :])


@given(problems(), st.integers(0, 3))
def test_every_example_is_in_one_pack(problem: tuple[list[int], int], seed: int) -> None:
    lengths, max_seq_len = problem
    plan = pack(lengths, max_seq_len, seed=seed)
    check(plan, lengths, max_seq_len)
    packing = pack_histogram(count_lengths(lengths, max_seq_len), max_seq_len)
    assert (plan.packs, plan.lower_bound) == (packing.packs, packing.lower_bound)


def test_the_seed_decides() -> None:
    """The same seed the same packs, another seed others; a generator counts as a seed."""
    one, same, other = (pack(CHATS, 2048, seed=seed) for seed in (1, 1, 2))
    for plan in (same, pack(CHATS, 2048, seed=np.random.Generator(np.random.PCG64(1)))):
        assert np.array_equal(one.indices, plan.indices)
        assert np.array_equal(one.offsets, plan.offsets)
        assert np.array_equal(one.opened, plan.opened)
    assert not np.array_equal(one.indices, other.indices)


def test_the_packs_stand_in_no_order() -> None:
    """A trainer that reads them as they stand sees no trend of lengths, nor the order of the file."""
    plan = pack(CHATS, 2048, seed=3)
    longest = CHATS[plan.indices[plan.offsets[:-1]]].astype(float)
    place = np.arange(plan.packs)
    assert abs(np.corrcoef(place, longest)[0, 1]) < 0.1
    assert abs(np.corrcoef(place, plan.indices[plan.offsets[:-1]])[0, 1]) < 0.1


def test_equal_lengths_are_dealt_at_random() -> None:
    """Which of the equal examples meet is the seed's choice: any two share a pack about as often as any other two."""
    lengths = [10] * 6
    met = np.zeros((6, 6), int)
    for seed in range(300):
        plan = pack(lengths, 20, seed=seed)
        for number in range(plan.packs):
            one, two = plan.pack(number)
            met[one, two] += 1
            met[two, one] += 1
    pairs = met[np.triu_indices(6, 1)]
    assert pairs.sum() == 900
    assert pairs.min() > 35  # 60 each on average, standard deviation 7
    assert pairs.max() < 90


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64])
def test_the_element_type_makes_no_difference(dtype: type[np.integer]) -> None:
    assert np.array_equal(pack(NARROW.astype(dtype), 512, seed=1).indices, pack(NARROW.tolist(), 512, seed=1).indices)


@pytest.mark.parametrize("distinct", [300, 70_000])
def test_lengths_beyond_16_bits_are_sorted_all_the_same(distinct: int) -> None:
    """By their rank where the ranks fit into 16 bits, by themselves where they do not."""
    lengths = np.arange(distinct) + 65_500
    plan = pack(lengths, 200_000, seed=1)
    assert np.array_equal(np.sort(plan.indices), np.arange(distinct))
    assert np.array_equal(np.add.reduceat(lengths[plan.indices], plan.offsets[:-1]), plan.tokens)
    assert plan.tokens.max() <= 200_000


def test_nothing_to_pack_is_no_pack() -> None:
    assert pack([], 100, seed=1).packs == 0


@parametrize(
    "lengths, max_seq_len, words",
    ([5, 12, 3, 20], 10, r"example 1 \(from 0\) has 12 tokens, more than max_seq_len 10 \(2 of 4 examples"),
    ([5, 0, 3], 10, r"example 1 \(from 0\) has 0 tokens"),
    ([5, -1, 3], 10, r"example 1 \(from 0\) has -1 tokens"),
    ([], 0, "max_seq_len is 0"),
    ([1.5], 10, "integer array"),
    ([[1]], 10, "one-dimensional"),
)
def test_what_cannot_be_packed_is_refused(lengths: list[int], max_seq_len: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack(lengths, max_seq_len, seed=1)


SIZES = st.integers(1, 9)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), SIZES, SIZES, st.integers(1, 3), st.integers(0, 5))
def test_every_example_comes_once(
    lengths: list[int], global_size: int, micro_size: int, epochs: int, seed: int
) -> None:
    """Each step but an epoch's last has the whole global batch; the counts are those of the batches themselves."""
    tokens = np.array(lengths, np.uint32)
    plan = plan_batches(tokens, global_batch_size=global_size, micro_batch_size=micro_size, epochs=epochs, seed=seed)
    steps = [plan.step(step) for step in range(plan.steps)]
    assert sum(len(step) for step in steps) == plan.micro_batches
    for epoch in range(epochs):
        own = [step for number, step in enumerate(steps) if plan.epoch_of(number) == epoch]
        assert len(own) == plan.steps_per_epoch
        assert sorted(int(i) for step in own for micro in step for i in micro) == list(range(len(lengths)))
        assert all(sum(len(micro) for micro in step) == global_size for step in own[:-1])
    largest = max(int(tokens[micro].max()) * len(micro) for step in steps for micro in step)
    assert plan.largest_micro_batch_tokens(tokens) == largest


@given(st.integers(1, 60), SIZES, st.integers(0, 5))
def test_the_micro_batch_changes_no_step(count: int, global_size: int, seed: int) -> None:
    """Memory is no science: the examples of each step, and their order, stay; the digest tells the plans apart."""
    tokens = np.ones(count, np.uint32)
    plans = [
        plan_batches(tokens, global_batch_size=global_size, micro_batch_size=micro, epochs=2, seed=seed)
        for micro in {1, global_size}
    ]
    orders = [[[int(i) for micro in plan.step(step) for i in micro] for step in range(plan.steps)] for plan in plans]
    assert all(order == orders[0] for order in orders)
    assert len({plan.digest for plan in plans}) == len(plans)


def test_another_seed_or_epoch_is_another_order() -> None:
    """The order is drawn anew for each epoch, and by the seed."""
    tokens = np.ones(100, np.uint32)
    one, two = (plan_batches(tokens, global_batch_size=10, micro_batch_size=5, epochs=2, seed=s) for s in (1, 2))
    assert not np.array_equal(one.orders[0], one.orders[1])
    assert not np.array_equal(one.orders[0], two.orders[0])
    assert one.digest != two.digest


@given(st.integers(1, 200), st.integers(-3, 300))
def test_the_largest_divisor_divides_and_is_within_the_limit(number: int, limit: int) -> None:
    found = largest_divisor(number, limit)
    assert number % found == 0
    assert found <= max(limit, 1)
    assert not [other for other in range(found + 1, min(number, limit) + 1) if number % other == 0]


def test_no_examples_are_refused() -> None:
    """A run without steps is a fault of the caller."""
    with pytest.raises(ValueError, match="at least one"):
        plan_batches(np.array([], np.uint32), global_batch_size=1, micro_batch_size=1, epochs=1, seed=0)


@given(problems(most=9))
def test_no_packing_is_below_the_bound(problem: tuple[list[int], int]) -> None:
    """And the bound is at least what the tokens alone ask for."""
    lengths, max_seq_len = problem
    bound = lower_bound(count_lengths(lengths, max_seq_len), max_seq_len)
    assert -(-sum(lengths) // max_seq_len) <= bound <= fewest(lengths, max_seq_len)


@parametrize(
    "lengths, max_seq_len, bound",
    ([], 10, 0),
    ([10, 10, 10], 10, 3),
    ([6, 6, 6, 6], 10, 4),  # each above half: none shares
    ([6, 6, 5, 5], 10, 3),  # two alone, the halves together
    ([7, 7, 4, 4, 4], 10, 4),  # no 4 fits beside a 7, and two of them share
    ([4] * 9, 10, 5),  # above a third: two a pack at most, though their tokens fit into four
    ([700] * 4000 + [130] * 4000, 2048, 2000),
)
def test_what_cannot_share_counts(lengths: list[int], max_seq_len: int, bound: int) -> None:
    assert lower_bound(count_lengths(lengths, max_seq_len), max_seq_len) == bound


LENGTHS = st.lists(st.integers(1, 80), min_size=1, max_size=200).map(lambda items: np.array(items, np.uint32))


def settings_of(draw_packed: bool, micro: int, accumulation: int, epochs: int, seed: int = 3) -> BatchSettings:
    return BatchSettings(
        max_seq_len=64,
        packed=draw_packed,
        micro_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        epochs=epochs,
        seed=seed,
    )


@given(LENGTHS, st.booleans(), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_what_it_says_of_an_epoch_adds_up(
    lengths: np.ndarray, packed: bool, micro: int, accumulation: int, epochs: int
) -> None:
    found = OurBatching().forecast(lengths, settings_of(packed, micro, accumulation, epochs))
    kept = np.minimum(lengths, 64)
    assert found.examples == len(lengths)
    assert found.row_tokens.sum() == kept.sum()
    assert found.row_tokens.max() <= 64
    assert found.lower_bound <= found.rows <= len(lengths)
    assert len(found.micro_batch_tokens) == -(-found.rows // micro)
    assert found.steps == epochs * -(-found.rows // (micro * accumulation))
    assert found.truncated.tolist() == np.flatnonzero(lengths > 64).tolist()
    assert 0 < found.efficiency <= 1
    assert found.largest.tokens >= found.micro_batch_tokens.max()
    assert found.largest.label_tokens <= found.largest.tokens
    if packed:
        assert found.padded_tokens == found.rows * 64


@given(LENGTHS, st.integers(1, 9))
def test_the_same_seed_gives_the_same_rows(lengths: np.ndarray, micro: int) -> None:
    first, second = (OurBatching().forecast(lengths, settings_of(True, micro, 1, 1)) for _ in range(2))
    assert first.row_tokens.tolist() == second.row_tokens.tolist()


def test_labels_that_are_cut_do_not_count() -> None:
    lengths = np.array([70, 10], np.uint32)
    found = OurBatching().forecast(lengths, settings_of(False, 2, 1, 1), np.array([8, 3], np.uint32))
    assert found.largest.label_tokens == 2 + 3
    assert found.answers_cut.tolist() == [0]


def next_fit(order: list[int], lengths: list[int], max_seq_len: int) -> list[list[int]]:
    """Packs as torchtune's PackedDataset makes them, from its description."""
    packs: list[list[int]] = []
    room = 0
    for index in order:
        if lengths[index] > room or not packs:
            packs.append([])
            room = max_seq_len
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def of(plan: PackPlan) -> set[frozenset[int]]:
    return {frozenset(plan.pack(number).tolist()) for number in range(plan.packs)}


@given(problems(), st.integers(0, 3))
def test_next_fit_makes_our_packs(problem: tuple[list[int], int], seed: int) -> None:
    lengths, max_seq_len = problem
    plan = pack(lengths, max_seq_len, seed=seed)
    given_over = hand_off(plan, lengths)
    assert given_over.exact
    assert given_over.difference == 0
    assert {frozenset(one) for one in next_fit(given_over.order.tolist(), lengths, max_seq_len)} == of(plan)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_case_is_handed_over_exactly(case: PackingCase) -> None:
    """And fewer packs come of it than of the order of the file."""
    lengths = case.lengths()
    plan = pack(lengths, case.max_seq_len, seed=1)
    given_over = hand_off(plan, lengths)
    assert given_over.exact
    as_it_is = next_fit(list(range(len(lengths))), lengths.tolist(), case.max_seq_len)
    assert given_over.next_fit_packs == plan.packs <= len(as_it_is)


def test_only_the_loose_packs_stand_in_an_order() -> None:
    """The others keep their random order, so that a trainer that does not shuffle sees no trend."""
    lengths = CASES[4].lengths()
    plan = pack(lengths, 2048, seed=1)
    pack_of = np.empty(len(lengths), np.int64)
    pack_of[plan.indices] = np.repeat(np.arange(plan.packs), np.diff(plan.offsets))
    written = list(dict.fromkeys(pack_of[hand_off(plan, lengths).order].tolist()))
    least = min(int(lengths[plan.pack(number)].max()) for number in range(plan.packs))
    loose = {number for number in range(plan.packs) if 2048 - plan.tokens[number] >= least}
    assert 0 < len(loose) < plan.packs / 10
    assert written[: -len(loose)] == [number for number in range(plan.packs) if number not in loose]
    assert set(written[-len(loose) :]) == loose


def test_packs_that_next_fit_cannot_keep_apart_are_told() -> None:
    """Two packs that would fit into one are no plan of ours; next-fit joins them."""
    lengths = [4, 3, 9]
    plan = pack(lengths, 10, seed=1)
    apart = replace(
        plan,
        indices=np.array([0, 1, 2]),
        offsets=np.array([0, 1, 2, 3]),
        tokens=np.array([4, 3, 9]),
        opened=np.array([0, 1, 2]),
    )
    given_over = hand_off(apart, lengths)
    assert not given_over.exact
    assert (given_over.planned_packs, given_over.next_fit_packs, given_over.difference) == (3, 2, -1)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="holds 3 examples, not 2"):
        hand_off(pack([4, 3, 9], 10, seed=1), [4, 3])


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


def check_patterns(patterns: Sequence[Pattern], lengths: Sequence[int], max_seq_len: int) -> None:
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
        check_patterns(patterns, lengths, max_seq_len)
    assert sum(pattern.packs for pattern in best) == by_item.best_fit_decreasing(lengths, max_seq_len)
    assert sum(pattern.packs for pattern in first) == by_item.first_fit_decreasing(lengths, max_seq_len)


@given(problems())
def test_the_packer_is_at_or_below_both_and_at_or_above_the_bound(problem: Problem) -> None:
    """Whatever the lengths, it is no worse than what trainers do, and tells how far from optimal it may be."""
    lengths, max_seq_len = problem
    packing = pack_histogram(count_lengths(lengths, max_seq_len), max_seq_len)
    check_patterns(packing.patterns, lengths, max_seq_len)
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
    check_patterns(patterns, lengths, max_seq_len)


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
