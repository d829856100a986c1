"""The choice between answers that rest on different evidence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.estimate.ladder import choose, consistent, log_width

pytestmark = pytest.mark.planning


def answer(value: float, factor: float, rung: EvidenceLevel) -> Estimate:
    """An answer with an interval of so many times up and down."""
    return Estimate(value=value, unit="s", low=value / factor, high=value * factor, method="made", rung=rung)


ANSWERS = st.lists(
    st.builds(answer, st.floats(0.01, 100), st.floats(1.01, 5), st.sampled_from(list(EvidenceLevel))),
    min_size=1,
    max_size=5,
)


def test_the_narrowest_measured_one_is_chosen_and_all_are_kept() -> None:
    cold, stack, model = (
        answer(1.0, 2.0, EvidenceLevel.NOTHING),
        answer(1.1, 1.2, EvidenceLevel.SAME_STACK),
        answer(1.05, 1.3, EvidenceLevel.SAME_MODEL),
    )
    ladder = choose([cold, model, stack])
    assert ladder.chosen is stack
    assert ladder.answers == (model, stack, cold)


def test_what_was_not_measured_is_chosen_only_where_it_is_alone() -> None:
    cold = answer(1.0, 1.1, EvidenceLevel.NOTHING)
    assert choose([cold]).chosen is cold
    assert choose([cold, answer(1.05, 2.0, EvidenceLevel.SAME_STACK)]).chosen.rung is EvidenceLevel.SAME_STACK


def test_an_answer_that_contradicts_others_is_passed_over() -> None:
    wild = answer(40.0, 1.05, EvidenceLevel.SAME_RUN)
    sound = answer(1.0, 1.5, EvidenceLevel.SAME_MODEL)
    cold = answer(1.2, 2.0, EvidenceLevel.NOTHING)
    ladder = choose([wild, sound, cold])
    # Both measured ones contradict each other, so the better rung is taken, but not as if nothing was said against it.
    assert ladder.chosen.rung is EvidenceLevel.SAME_RUN
    assert ladder.chosen.low == sound.high or ladder.chosen.low == cold.high
    assert "contradicts" in ladder.chosen.method


def test_two_that_agree_outvote_none() -> None:
    """A third that contradicts one of them makes only those two doubtful."""
    run, model, stack = (
        answer(1.0, 1.1, EvidenceLevel.SAME_RUN),
        answer(1.4, 1.25, EvidenceLevel.SAME_MODEL),
        answer(2.0, 1.3, EvidenceLevel.SAME_STACK),
    )
    ladder = choose([run, model, stack])
    assert ladder.chosen is model


@given(ANSWERS)
def test_the_chosen_one_holds_its_value_and_comes_from_the_answers(answers: list[Estimate]) -> None:
    ladder = choose(answers)
    chosen = ladder.chosen
    assert chosen.low <= chosen.value <= chosen.high
    assert any(chosen.value == each.value and chosen.rung == each.rung for each in answers)
    assert sorted(map(id, ladder.answers)) == sorted(map(id, answers))
    if all(consistent(one, other) for one in answers for other in answers):
        measured = [each for each in answers if each.rung is not EvidenceLevel.NOTHING]
        assert log_width(chosen) == min(log_width(each) for each in measured or answers)


@given(ANSWERS)
def test_the_order_of_the_answers_does_not_matter(answers: list[Estimate]) -> None:
    one, other = choose(answers).chosen, choose(answers[::-1]).chosen
    assert (one.low, one.value, one.high, one.rung) == (other.low, other.value, other.high, other.rung)


@given(ANSWERS, ANSWERS)
def test_consistency_has_no_direction(ones: list[Estimate], others: list[Estimate]) -> None:
    assert consistent(ones[0], others[0]) == consistent(others[0], ones[0])


def test_zero_is_no_special_case() -> None:
    none = Estimate(value=0, unit="s", low=0, high=0, method="made", rung=EvidenceLevel.NOTHING)
    some = Estimate(value=1, unit="s", low=0, high=2, method="made", rung=EvidenceLevel.SAME_RUN)
    assert log_width(none) == 0
    assert log_width(some) == math.inf
    assert consistent(none, some)
    assert choose([none, some]).chosen is some


def test_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no estimates"):
        choose([])
