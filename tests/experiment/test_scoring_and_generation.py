"""Scores say what a person would say, and generated datasets are what their names promise."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.errors import InputError
from touchline.experiment.tasks.capitalization import dataset_file_name, generate_capitalization, split_sizes
from touchline.experiment.tasks.protocol import Scores, score_text
from touchline.experiment.tasks.ready_made import TASKS, get_task
from touchline.experiment.tasks.text_answers import chosen, numbers

pytestmark = pytest.mark.planning

WORDS = [a + b + c for a in "abcdefgh" for b in "klmnop" for c in "qrstuv"]
VISIBLE = st.text(min_size=1).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize(
    ("output", "target", "exact", "match"),
    [
        ("Airiest", "Airiest", True, True),
        ("  Airiest\n", "Airiest", True, True),
        ("Airiest.", "Airiest", False, True),
        ('"Airiest"', "Airiest", False, True),
        ("**Airiest**", "Airiest", False, True),
        ("`Airiest`", "Airiest", False, True),
        ("New  York", "New York", False, True),
        ("airiest", "Airiest", False, False),
        ("AIRIEST", "Airiest", False, False),
        ("The word is Airiest", "Airiest", False, False),
        ("", "Airiest", False, False),
        ("...", "Airiest", False, False),
        ("!", "?", False, False),
        ("?", "?", True, True),
        ("1+1", "11", False, False),
        ("$5", "5", False, False),
    ],
)
def test_scores_are_what_a_person_would_say(output: str, target: str, exact: bool, match: bool) -> None:
    """Case and symbols count, surrounding white space never, punctuation only for the exact score."""
    assert score_text(output, target) == Scores(exact=exact, match=match)


def test_vowel_signs_tell_answers_apart() -> None:
    """What is no letter is not punctuation for that: many scripts write vowels as marks."""
    assert score_text("कि", "का") == Scores(exact=False, match=False)
    assert score_text("कि।", "कि") == Scores(exact=False, match=True)


@given(st.text(), VISIBLE, st.text(alphabet=string.whitespace))
def test_laws_of_scores(output: str, target: str, nothing: str) -> None:
    """Exact implies match, an answer is right against itself, nothing is never right, an empty target is a fault."""
    scores = score_text(output, target)
    assert scores.match or not scores.exact
    assert score_text(target, target) == Scores(exact=True, match=True)
    assert score_text(nothing, target) == Scores(exact=False, match=False)
    with pytest.raises(InputError, match="empty target"):
        score_text(output, nothing)


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


def test_tasks_are_found_by_name_and_near_names_are_told() -> None:
    """A typo costs one look at the message."""
    assert get_task("capitalization").prompt == "Capitalize the given word: {input}"
    assert get_task("exact_match").prompt == "{input}"
    assert all(task.name == name for name, task in TASKS.items())
    with pytest.raises(InputError) as caught:
        get_task("capitalisation")
    assert "capitalization" in str(caught.value.hint)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_split_sizes_add_up_and_none_is_negative(count: int, fraction: float) -> None:
    """Every row is in exactly one split; 2,000 words at 0.8 are 1,600 to train, 100 to validate, 300 to test."""
    sizes = split_sizes(count, fraction)
    assert sum(sizes) == count
    assert min(sizes) >= 0
    assert split_sizes(2000, 0.8) == (1600, 100, 300)


@given(st.integers(8, len(WORDS)), st.floats(0.05, 0.9), st.integers(0, 2**32))
def test_generated_splits_share_no_word_and_hold_all(count: int, fraction: float, seed: int) -> None:
    """Every word once, of the asked length, with its capital, whatever the sizes and the seed."""
    sizes = split_sizes(count, fraction)
    if min(sizes) < 1:
        with pytest.raises(InputError):
            _generate(count, fraction, seed)
        return
    splits = _generate(count, fraction, seed)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == list(sizes)
    rows = [row for split in splits.values() for row in split]
    assert len({row["input"] for row in rows}) == count
    assert all(row["output"] == row["input"].capitalize() and row["input"] in WORDS for row in rows)


def test_generation_depends_on_the_seed_alone_and_not_on_the_order_of_the_list() -> None:
    """The same arguments give the same rows; another seed gives others; doubled words count once."""
    once = _generate(50, 0.8, 3)
    assert once == _generate(50, 0.8, 3, [*reversed(WORDS), *WORDS, "long-word"])
    assert once != _generate(50, 0.8, 4)


def test_too_few_words_say_how_many_there_are() -> None:
    """The message holds both numbers, and the hint one that works."""
    with pytest.raises(InputError) as caught:
        _generate(len(WORDS) + 1, 0.8, 0)
    assert f"{len(WORDS)} words of 3 letters" in caught.value.message
    assert caught.value.hint == f"--num-words {len(WORDS)}, or another list: --words FILE"
    with pytest.raises(InputError, match="0 words of 99 letters"):
        generate_capitalization(
            WORDS, word_length=99, num_words=1, train_fraction=0.8, rng=np.random.Generator(np.random.PCG64(0))
        )


@pytest.mark.parametrize(
    ("count", "fraction"),
    [*((40, each) for each in (0.0, 1.0, -0.5, 1.5, float("nan"), float("inf"), 0.99)), (0, 0.8), (-1, 0.8), (3, 0.8)],
)
def test_what_leaves_a_split_empty_is_refused(count: int, fraction: float) -> None:
    """Not a dataset that fails an hour later."""
    with pytest.raises(InputError, match="leave a split empty"):
        _generate(count, fraction, 0)


def test_file_names_tell_length_share_and_count() -> None:
    """The name that the seeds use; two shares never share a name."""
    assert dataset_file_name(8, 0.8, 2000) == "words_8L_80P_2000.json"
    assert dataset_file_name(5, 0.29, 100) == "words_5L_29P_100.json"
    assert dataset_file_name(5, 0.825, 100) == "words_5L_82.5P_100.json"


def _generate(
    count: int, fraction: float, seed: int, words: list[str] | None = None
) -> dict[str, list[dict[str, str]]]:
    rng = np.random.Generator(np.random.PCG64(seed))
    return generate_capitalization(words or WORDS, word_length=3, num_words=count, train_fraction=fraction, rng=rng)
