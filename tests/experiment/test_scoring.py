"""Scorers: right is right, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.errors import InputError
from touchline.experiment.tasks.protocol import Scores
from touchline.experiment.tasks.ready_made import get_task

pytestmark = pytest.mark.planning


@pytest.mark.parametrize(
    ("output", "exact", "match"),
    [
        ("Airiest", True, True),
        (" Airiest\n", True, True),
        ("Airiest.", False, True),
        ("**Airiest**", False, True),
        ("airiest", False, False),
        ("AIRIEST", False, False),
        ("", False, False),
        ("The word is Airiest", False, False),
        ("Air", False, False),
    ],
)
def test_exact_and_normalised_match(output: str, exact: bool, match: bool) -> None:
    """Exact takes off surrounding white space only; match also punctuation; case always counts."""
    assert get_task("capitalization").score(output, "Airiest") == Scores(exact=exact, match=match)


@given(st.text(), st.text(min_size=1).filter(lambda text: bool(text.strip())))
def test_exact_implies_match_and_empty_is_never_right(output: str, target: str) -> None:
    """An exact answer is a match; an answer of white space is wrong."""
    scores = get_task("exact_match").score(output, target)
    assert not scores.exact or scores.match
    assert not (scores.match and not output.strip())
    assert get_task("exact_match").score(target, target).exact


def test_an_empty_target_is_a_fault() -> None:
    """With an empty target everything would be right or nothing."""
    with pytest.raises(InputError):
        get_task("exact_match").score("x", "  ")


def test_an_unknown_task_names_the_near_one() -> None:
    """`capitalisation` is meant to be `capitalization`."""
    with pytest.raises(InputError) as caught:
        get_task("capitalisation")
    assert "capitalization" in str(caught.value.hint)
