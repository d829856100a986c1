"""Numbers and letters read from what a model writes; what cannot be read is counted, and never right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.experiment.tasks.protocol import Scores
from touchline.experiment.tasks.ready_made import get_task
from touchline.experiment.tasks.text_answers import chosen, numbers

pytestmark = pytest.mark.planning


@pytest.mark.parametrize(
    ("output", "target", "exact", "match", "parsed"),
    [
        ("1200", "1200", True, True, True),
        ("The total is 1,200.", "1200", False, True, True),
        ("1200.0", "1,200", False, True, True),
        ("3 + 4 = 7", "7", False, True, True),
        ("7 = 3 + 4", "7", False, False, True),
        ("it is -5", "-5", False, True, True),
        ("it is \u22125", "-5", False, True, True),
        ("it is 5", "-5", False, False, True),
        ("1e3", "1000", False, True, True),
        ("1, 2,3", "3", False, True, True),
        ("$12!", "12", False, True, True),
        ("seven", "7", False, False, False),
        ("", "7", False, False, False),
        ("a7b", "7", False, False, False),
        ("9" * 500, "9" * 500, True, True, None),
        ("Paris", "Paris", True, True, None),
        ("paris", "Paris", False, False, None),
    ],
)
def test_the_last_number_counts(output: str, target: str, exact: bool, match: bool, parsed: bool | None) -> None:
    """However it is written."""
    assert get_task("number").score(output, target) == Scores(exact=exact, match=match, parsed=parsed)


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),
        (" (B) since", "B"),
        ("B. Paris", "B"),
        ("**C**", "C"),
        ("The answer is C.", "C"),
        ("Not answer A, but answer: (D)", "D"),
        ("I choose option B", "B"),
        ("A cat sat", None),
        ("b", None),
        ("", None),
        ("I do not know", None),
    ],
)
def test_the_letter_is_read_where_it_is_given(output: str, letter: str | None) -> None:
    """At the start, or after a word that announces it."""
    assert chosen(output) == letter
    scores = get_task("choice").score(output, "B")
    assert scores.parsed == (letter is not None)
    assert scores.match == (letter == "B")


@given(st.integers(-(10**12), 10**12), st.text(alphabet="abc .!?", max_size=10))
def test_any_number_is_found_in_words(value: int, around: str) -> None:
    """With commas and without."""
    for text in (str(value), f"{value:,}"):
        assert numbers(f"{around} {text} {around}") == [value]


@given(st.text(max_size=200), st.text(min_size=1, max_size=50).filter(str.strip))
def test_whatever_is_written_scoring_ends(output: str, target: str) -> None:
    """No text breaks a scorer, exact answers are right, and empty ones never."""
    for name in ("number", "choice"):
        score = get_task(name).score
        found = score(output, target)
        assert found.match or not found.exact
        assert score(target, target).exact
        assert not score("", target).match
