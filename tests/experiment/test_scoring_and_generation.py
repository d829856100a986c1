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


@given(VISIBLE)
def test_an_answer_scores_as_right_against_itself(text: str) -> None:
    """Whatever the alphabet."""
    assert score_text(text, text) == Scores(exact=True, match=True)


@given(st.text(), VISIBLE)
def test_exact_implies_match(output: str, target: str) -> None:
    """The normalised score is never stricter than the exact one."""
    scores = score_text(output, target)
    assert scores.match or not scores.exact


@given(st.text(alphabet=string.whitespace), VISIBLE)
def test_an_empty_answer_is_never_right(output: str, target: str) -> None:
    """A model that says nothing has not answered."""
    assert score_text(output, target) == Scores(exact=False, match=False)


@given(st.text(alphabet=string.whitespace))
def test_an_empty_target_is_a_fault(target: str) -> None:
    """Against nothing, nothing could be wrong."""
    with pytest.raises(InputError, match="empty target"):
        score_text("anything", target)


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
    """Every row is in exactly one split."""
    sizes = split_sizes(count, fraction)
    assert sum(sizes) == count
    assert min(sizes) >= 0


def test_split_sizes_of_the_usual_dataset() -> None:
    """2,000 words at 0.8: 1,600 train, 100 validate, 300 test."""
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


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, float("nan"), float("inf"), 0.99])
def test_a_fraction_that_leaves_a_split_empty_is_refused(fraction: float) -> None:
    """Not a dataset that fails an hour later."""
    with pytest.raises(InputError, match="leave a split empty"):
        _generate(40, fraction, 0)


@pytest.mark.parametrize("count", [0, -1, 3])
def test_a_count_that_leaves_a_split_empty_is_refused(count: int) -> None:
    """Three words cannot fill three splits at 0.8."""
    with pytest.raises(InputError, match="leave a split empty"):
        _generate(count, 0.8, 0)


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
