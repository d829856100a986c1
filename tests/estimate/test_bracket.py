"""The search for the largest micro-batch: few tries, none beyond a proven OOM, and an answer that was seen to fit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.estimate.bracket import BISECTIONS, KNEE_GAIN, Search, SearchStop, Trial, divisors, knee, search

pytestmark = pytest.mark.planning

SIZES = st.lists(st.integers(1, 4096), min_size=1, max_size=24, unique=True)
LIMITS = st.integers(0, 5000)
PREDICTIONS = st.none() | st.integers(0, 6000)


def run(sizes: list[int], predicted: int | None, limit: int, *, saturation: float | None = None) -> Search:
    """A machine on which sizes up to a limit fit; its throughput grows up to a saturation, or was not measured."""
    tried: list[int] = []

    def try_one(size: int) -> Trial:
        assert size in sizes
        assert size not in tried, "tried twice"
        assert all(size < other for other in tried if other > limit), "tried at or above a proven OOM"
        tried.append(size)
        rate = None if saturation is None else size / (size + saturation)
        return Trial(size=size, tokens=100 * size, fits=size <= limit, tokens_per_second=rate)

    found = search(sizes, predicted, try_one)
    assert [trial.size for trial in found.trials] == tried
    assert len(tried) <= 2 + BISECTIONS
    return found


@given(sizes=SIZES, predicted=PREDICTIONS, limit=LIMITS, saturation=st.none() | st.floats(0.01, 1e5))
def test_the_answer_was_tried_and_fits(
    sizes: list[int], predicted: int | None, limit: int, saturation: float | None
) -> None:
    found = run(sizes, predicted, limit, saturation=saturation)
    fitting = [trial.size for trial in found.trials if trial.fits]
    assert found.largest == max(fitting, default=None)
    assert (found.recommended is None) == (found.largest is None)
    if found.recommended is not None and found.largest is not None:
        assert found.recommended in fitting
        assert found.recommended <= found.largest <= limit


@given(sizes=SIZES, predicted=PREDICTIONS, limit=LIMITS)
def test_where_the_search_says_so_no_larger_size_fits(sizes: list[int], predicted: int | None, limit: int) -> None:
    found = run(sizes, predicted, limit)
    truth = max((size for size in sizes if size <= limit), default=None)
    if found.ended in (SearchStop.BRACKETED, SearchStop.ALL_FIT, SearchStop.NONE_FITS):
        assert found.largest == truth
    else:
        assert found.ended is SearchStop.TRIES
        assert len(found.trials) == 2 + BISECTIONS


@given(power=st.integers(0, 12), error=st.floats(0.5, 2.0), limit=st.integers(1, 5000))
def test_powers_of_two_and_a_prediction_within_a_factor_of_two_always_give_the_truth(
    power: int, error: float, limit: int
) -> None:
    sizes = list(divisors(2**power))
    found = run(sizes, round(limit * error), limit)
    assert found.ended is not SearchStop.TRIES
    assert found.largest == max(size for size in sizes if size <= limit)


@pytest.mark.parametrize(
    ("predicted", "limit", "tried"),
    [
        (40, 40, [16, 32, 64]),
        (64, 64, [32, 64]),
        (100, 100, [64]),
        (64, 40, [32, 64]),
        (64, 5, [32, 4, 8]),
        (3, 64, [2, 4, 16, 64]),
        (None, 64, [1, 2, 8, 64]),
        (None, 3, [1, 2, 8, 4]),
    ],
)
def test_the_tries_of_a_global_batch_of_64(predicted: int | None, limit: int, tried: list[int]) -> None:
    """Begins at 0.7 of the prediction, then 1.1; a wrong prediction is left by long strides."""
    assert [trial.size for trial in run(list(divisors(64)), predicted, limit).trials] == tried


def test_at_the_knee_it_ends_and_the_smaller_one_is_recommended() -> None:
    """From 256 to 512 rows the rate grows by less than 3 %, so 1024 is never tried."""
    found = run(list(divisors(1024)), 500, 2000, saturation=4.0)
    assert [trial.size for trial in found.trials] == [256, 512]
    assert (found.ended, found.largest, found.recommended) == (SearchStop.KNEE, 512, 256)


@given(rates=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=8))
def test_nothing_larger_is_faster_than_the_knee_by_three_percent_a_doubling(rates: list[float]) -> None:
    trials = [
        Trial(size=2**power, tokens=2**power, fits=True, tokens_per_second=rate) for power, rate in enumerate(rates)
    ]
    size = knee(trials)
    assert size is not None
    place = int(math.log2(size))
    for doublings, rate in enumerate(rates[place + 1 :], start=1):
        assert rate <= rates[place] * (1 + KNEE_GAIN) ** doublings * (1 + 1e-9)
    for smaller in range(place):
        assert any(
            rate >= rates[smaller] * (1 + KNEE_GAIN) ** doublings * (1 - 1e-9)
            for doublings, rate in enumerate(rates[smaller + 1 :], start=1)
        )


@given(tokens=st.integers(1, 10**9), more=st.integers(0, 3), rate=st.floats(1e-6, 1e6), faster=st.floats(1e-6, 1e6))
def test_sizes_of_nearly_equal_tokens_are_compared_without_overflow(
    tokens: int, more: int, rate: float, faster: float
) -> None:
    trials = [
        Trial(size=1, tokens=tokens, fits=True, tokens_per_second=rate),
        Trial(size=2, tokens=tokens + more, fits=True, tokens_per_second=faster),
    ]
    assert knee(trials) in (1, 2)


def test_what_was_not_timed_ends_no_search_and_is_no_knee() -> None:
    found = run(list(divisors(8)), 8, 8)
    assert (found.largest, found.recommended, found.ended) == (8, 8, SearchStop.ALL_FIT)


@given(st.integers(1, 5000))
def test_divisors_divide_and_none_is_missing(number: int) -> None:
    assert list(divisors(number)) == [size for size in range(1, number + 1) if number % size == 0]


@pytest.mark.parametrize("sizes", [[], [0, 1], [-2]])
def test_sizes_that_cannot_be_tried_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="invalid sizes to try"):
        run(sizes, 1, 1)
