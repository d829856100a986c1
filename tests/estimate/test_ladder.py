"""The choice between answers that rest on different evidence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.estimate.bracket import BISECTIONS, KNEE_GAIN, Search, SearchStop, Trial, divisors, knee, search
from touchline.estimate.intervals import choose, consistent, log_width

pytestmark = pytest.mark.planning


def answer(value: float, factor: float, rung: EvidenceLevel) -> Estimate:
    return Estimate(value=value, unit="s", low=value / factor, high=value * factor, method="made", rung=rung)


ANSWERS = st.lists(
    st.builds(answer, st.floats(0.01, 100), st.floats(1.01, 5), st.sampled_from(list(EvidenceLevel))),
    min_size=1,
    max_size=5,
)


def test_the_narrowest_measured_one_is_chosen() -> None:
    cold, stack, model = (
        answer(1.0, 2.0, EvidenceLevel.NOTHING),
        answer(1.1, 1.2, EvidenceLevel.SAME_STACK),
        answer(1.05, 1.3, EvidenceLevel.SAME_MODEL),
    )
    assert choose([cold, model, stack]) is stack


def test_what_was_not_measured_is_chosen_only_where_it_is_alone() -> None:
    cold = answer(1.0, 1.1, EvidenceLevel.NOTHING)
    assert choose([cold]) is cold
    assert choose([cold, answer(1.05, 2.0, EvidenceLevel.SAME_STACK)]).rung is EvidenceLevel.SAME_STACK


def test_an_answer_that_contradicts_others_is_passed_over() -> None:
    wild = answer(40.0, 1.05, EvidenceLevel.SAME_RUN)
    sound = answer(1.0, 1.5, EvidenceLevel.SAME_MODEL)
    cold = answer(1.2, 2.0, EvidenceLevel.NOTHING)
    chosen = choose([wild, sound, cold])
    # Both measured ones contradict each other, so the better rung is taken, but not as if nothing was said against it.
    assert chosen.rung is EvidenceLevel.SAME_RUN
    assert chosen.low == sound.high or chosen.low == cold.high
    assert "contradicts" in chosen.method


def test_two_that_agree_outvote_none() -> None:
    """A third that contradicts one of them makes only those two doubtful."""
    run, model, stack = (
        answer(1.0, 1.1, EvidenceLevel.SAME_RUN),
        answer(1.4, 1.25, EvidenceLevel.SAME_MODEL),
        answer(2.0, 1.3, EvidenceLevel.SAME_STACK),
    )
    assert choose([run, model, stack]) is model


@given(ANSWERS)
def test_the_chosen_one_holds_its_value_and_comes_from_the_answers(answers: list[Estimate]) -> None:
    chosen = choose(answers)
    assert chosen.low <= chosen.value <= chosen.high
    assert any(chosen.value == each.value and chosen.rung == each.rung for each in answers)
    if all(consistent(one, other) for one in answers for other in answers):
        measured = [each for each in answers if each.rung is not EvidenceLevel.NOTHING]
        assert log_width(chosen) == min(log_width(each) for each in measured or answers)


@given(ANSWERS)
def test_the_order_of_the_answers_does_not_matter(answers: list[Estimate]) -> None:
    one, other = choose(answers), choose(answers[::-1])
    assert (one.low, one.value, one.high, one.rung) == (other.low, other.value, other.high, other.rung)


@given(ANSWERS, ANSWERS)
def test_consistency_has_no_direction(ones: list[Estimate], others: list[Estimate]) -> None:
    assert consistent(ones[0], others[0]) == consistent(others[0], ones[0])


def test_zero_is_no_special_case_and_nothing_is_refused() -> None:
    none = Estimate(value=0, unit="s", low=0, high=0, method="made", rung=EvidenceLevel.NOTHING)
    some = Estimate(value=1, unit="s", low=0, high=2, method="made", rung=EvidenceLevel.SAME_RUN)
    assert log_width(none) == 0
    assert log_width(some) == math.inf
    assert consistent(none, some)
    assert choose([none, some]) is some
    with pytest.raises(ValueError, match="no estimates"):
        choose([])


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
def test_answers_were_tried(sizes: list[int], predicted: int | None, limit: int, saturation: float | None) -> None:
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
def test_powers_of_two_and_a_fair_prediction_give_the_truth(power: int, error: float, limit: int) -> None:
    sizes = list(divisors(2**power))
    found = run(sizes, round(limit * error), limit)
    assert found.ended is not SearchStop.TRIES
    assert found.largest == max(size for size in sizes if size <= limit)


@parametrize(
    "predicted, limit, tried",
    (40, 40, [16, 32, 64]),
    (64, 64, [32, 64]),
    (100, 100, [64]),
    (64, 40, [32, 64]),
    (64, 5, [32, 4, 8]),
    (3, 64, [2, 4, 16, 64]),
    (None, 64, [1, 2, 8, 64]),
    (None, 3, [1, 2, 8, 4]),
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
    trials = [Trial(size=2**p, tokens=2**p, fits=True, tokens_per_second=rate) for p, rate in enumerate(rates)]
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
def test_sizes_of_nearly_equal_tokens_do_not_overflow(tokens: int, more: int, rate: float, faster: float) -> None:
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
