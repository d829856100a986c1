"""Scores say what a person would say, and generated datasets are what their names promise."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize, refusal

from touchline.core.errors import InputError
from touchline.core.shape import size_class, size_label, size_of_name
from touchline.data.public import public_models
from touchline.experiment.answer_batches import BatchSize, batch_limits, shares_batches
from touchline.experiment.tasks.classification import LISTED_LABELS, indistinct, label_prompt, read_label
from touchline.experiment.tasks.protocol import Scores, chosen, numbers, score_text
from touchline.experiment.tasks.ready_made import (
    TASKS,
    dataset_file_name,
    generate_capitalization,
    get_task,
    split_sizes,
)
from touchline.statistics.labels import label_report

pytestmark = pytest.mark.planning

WORDS = [a + b + c for a in "abcdefgh" for b in "klmnop" for c in "qrstuv"]
VISIBLE = st.text(min_size=1).filter(lambda text: bool(text.strip()))


@parametrize(
    "output, target, exact, match",
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


@parametrize(
    "output, target, exact, match, parsed",
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
)
def test_the_last_number_counts(output: str, target: str, exact: bool, match: bool, parsed: bool | None) -> None:
    """However it is written."""
    assert get_task("number").score(output, target) == Scores(exact=exact, match=match, parsed=parsed)


@parametrize(
    "output, letter",
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
)
def test_the_letter_is_read_where_it_is_given(output: str, letter: str | None) -> None:
    """At the start, or after a word that announces it."""
    assert chosen(output) == letter
    scores = get_task("choice").score(output, "B")
    assert (scores.parsed, scores.match) == (letter is not None, letter == "B")


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
    assert "capitalization" in str(refusal(get_task, "capitalisation").hint)


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
    caught = refusal(_generate, len(WORDS) + 1, 0.8, 0)
    assert f"{len(WORDS)} words of 3 letters" in caught.message
    assert caught.hint == f"--num-words {len(WORDS)}, or another list: --words FILE"
    with pytest.raises(InputError, match="0 words of 99 letters"):
        generate_capitalization(
            WORDS, word_length=99, num_words=1, train_fraction=0.8, rng=np.random.Generator(np.random.PCG64(0))
        )


@parametrize(
    "count, fraction",
    *((40, each) for each in (0.0, 1.0, -0.5, 1.5, float("nan"), float("inf"), 0.99)),
    (0, 0.8),
    (-1, 0.8),
    (3, 0.8),
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


GIB = 1024**3


def test_short_prompts_get_larger_batches_and_a_number_is_an_upper_bound() -> None:
    """Rows x tokens stays within the limit; one prompt is always tried."""
    limits = batch_limits(None, 40_000)
    assert limits.rows("auto", 60) == 128
    assert limits.rows(64, 60) == 64
    assert limits.rows(64, 4096) == limits.rows("auto", 4096) == 16
    assert limits.rows("auto", 10**9) == 1


def test_a_gpu_takes_what_its_memory_holds() -> None:
    """Half of the memory for keys and values; a little more or less free memory changes no batch."""
    bytes_per_token = 128 * 1024
    large, small = (batch_limits(gib * GIB, bytes_per_token) for gib in (60, 6))
    assert large.tokens * bytes_per_token <= 30 * GIB
    assert small.tokens * bytes_per_token > 1.4 * GIB
    assert batch_limits(59.5 * GIB, bytes_per_token) == large
    assert large.rows("auto", 100) == 512
    assert small.rows("auto", 1000) == 16
    assert batch_limits(0, bytes_per_token).rows("auto", 10) == 1


@parametrize(
    "answers, batch_size, dtype, expected",
    (16, 64, "float32", True),
    (32, 64, "float32", True),
    (33, 64, "float32", False),
    (16, 30, "float32", False),
    (32, "auto", "float32", True),
    (33, "auto", "float32", False),
    (16, 64, "bfloat16", False),
)
def test_few_answers_in_float32_share_batches(answers: int, batch_size: BatchSize, dtype: str, expected: bool) -> None:
    """At most half a batch, and few; never where the size of a batch changes answers."""
    assert shares_batches(answers, batch_size, dtype) is expected


TONES = ("positive", "negative", "neutral")
READ: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    # Case, spaces, punctuation, markup, other widths.
    *(
        (text, TONES, "positive")
        for text in ("Positive", " positive.\n", "**POSITIVE**", "ＰＯＳＩＴＩＶＥ", '"positive"')
    ),
    ("The sentiment is positive.", TONES, "positive"),
    ('{"label": "neutral"}', TONES, "neutral"),
    ("<think>negative? no</think>positive", TONES, "positive"),
    # What a base model writes on after its answer does not count.
    ("positive\n\nText: bad\nnegative", TONES, "positive"),
    ("positive, because the negative parts are few", TONES, "positive"),
    ("Options: positive, negative, neutral. Answer: neutral", TONES, "neutral"),
    # Denied.
    *((text, TONES, None) for text in ("not positive", "Not a very positive one", "It can't be called negative")),
    ("isn't positive, it's negative", TONES, "negative"),
    ("It is not positive but negative", TONES, "negative"),
    ("neither positive nor negative: neutral", TONES, "neutral"),
    ("not positive or negative, neutral", TONES, "neutral"),
    ("The answer is not positive.", TONES, None),
    ("n'est pas positif", ("positif", "négatif"), None),
    ("不是正面", ("正面", "负面"), None),
    ("not only positive", TONES, "positive"),
    ("No, positive", TONES, "positive"),
    # No answer, or two.
    *((text, TONES, None) for text in ("", "I do not know", "positive or negative", "positive/negative", "pos itive")),
    *((text, TONES, None) for text in ("unpositive", "positively", "Answer: positive or negative?")),
    # One label begins, ends or holds another one.
    ("Very-Positive", ("positive", "very positive"), "very positive"),
    ("very", ("positive", "very positive"), None),
    ("business", ("business", "business news"), "business"),
    ("Business News!", ("business", "business news"), "business news"),
    ("New York", ("York", "New York"), "New York"),
    ("unrelated", ("related", "unrelated"), "unrelated"),
    ("not entailment", ("entailment", "not_entailment"), "not_entailment"),
    ("nontoxic", ("toxic", "non-toxic"), "non-toxic"),
    ("non toxic", ("toxic", "non-toxic"), "non-toxic"),
    ("not toxic", ("toxic", "non-toxic"), None),
    ("not toxic", ("toxic", "not toxic"), "not toxic"),
    # Words of many kinds.
    ("Card arrival", ("card_arrival", "card_linking"), "card_arrival"),
    ("Sci-Tech", ("Sci/Tech", "World"), "Sci/Tech"),
    *((text, ("C", "C++", "C#"), text) for text in ("C", "C++", "C#")),
    ("It is C++.", ("C", "C++", "C#"), "C++"),
    ("这是正面的", ("正面", "负面"), "正面"),
    (":)", (":)", ":("), ":)"),
    # Numbers keep their signs and their digits.
    ("The label is 1.", ("0", "1"), "1"),
    ("-1", ("-1", "0", "1"), "-1"),
    *((text, ("0", "1"), None) for text in ("10", "1.0", "1 or 0")),
    ("5 stars", ("1 star", "5 stars"), "5 stars"),
    # Labels that are words of the answer's own language.
    ("no, it is not", ("yes", "no"), "no"),
    ("Yes, there is no doubt", ("yes", "no"), "yes"),
    ("non", ("oui", "non"), "non"),
    # Letters alone.
    ("(b)", ("A", "B"), "B"),
    ("I think it's B", ("A", "B", "I"), None),
    ("Answer: B", ("A", "B"), "B"),
)


def test_the_label_that_is_meant_is_read() -> None:
    """In every way in which models write it, and none where none is meant."""
    wrong = [(text, labels, w, got) for text, labels, w in READ if (got := read_label(text, labels)) != w]
    assert wrong == []


@given(st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=2, max_size=6, unique=True), st.data())
def test_every_label_is_read_as_itself(labels: list[str], data: st.DataObject) -> None:
    """Whatever its characters; and no text at all is an error."""
    labels = list({label.strip(): None for label in labels})
    if len(labels) < 2 or indistinct(labels) is not None:
        return
    label = data.draw(st.sampled_from(labels))
    assert read_label(f" {label}\n", labels) == label
    assert read_label(data.draw(st.text(max_size=60)), labels) in (*labels, None)


def test_the_order_of_the_labels_decides_nothing() -> None:
    """A longer label is read wherever it stands in the list."""
    for text, labels, wanted in READ:
        assert read_label(text, tuple(reversed(labels))) == wanted, (text, labels)


def test_the_task_scores_by_the_label_and_counts_what_it_cannot_read() -> None:
    """A target that is written otherwise is the same label; an empty one is refused."""
    task = get_task("classification", ("Positive", "very positive"))
    assert task.metric(None) == ("accuracy", "match")
    scores = task.score("It is VERY positive!", "very positive")
    assert (scores.exact, scores.match, scores.parsed, scores.label) == (False, True, True, "very positive")
    assert task.score("positive", "positive").match
    unread = task.score("no idea", "Positive")
    assert (unread.match, unread.parsed, unread.label) == (False, False, None)
    with pytest.raises(InputError, match="empty target"):
        task.score("Positive", " ")
    with pytest.raises(InputError, match="has no metric 'f1'"):
        task.metric("f1")


def test_the_prompt_names_few_labels_and_no_column() -> None:
    """Many labels would fill the context; a brace in one would be taken for a column."""
    assert "positive, negative" in label_prompt(("positive", "negative"))
    many = [f"label {n}" for n in range(LISTED_LABELS + 1)]
    assert "label 3" not in label_prompt(many)
    assert "{input}" in label_prompt(("{input}", "b"))
    assert label_prompt(("{input}", "b")).count("{") == 1
    assert {name for name in TASKS if TASKS[name].with_labels is not None} == {"classification"}


def test_the_report_of_labels_is_what_a_table_by_hand_gives() -> None:
    """Precision, recall, F1, their means, the matrix with its column of unread answers, and the majority."""
    answers: list[tuple[str, str | None]] = [("a", "a")] * 6 + [("a", "b")] * 2 + [("b", "b"), ("b", None)]
    found = label_report(("a", "b", "c"), answers)
    assert found.confusion == ((6, 2, 0, 0), (0, 1, 0, 1), (0, 0, 0, 0))
    a, b, c = found.labels
    assert (a.items, a.predicted, a.right, a.precision, a.recall) == (8, 6, 6, 1.0, 0.75)
    assert (b.items, b.predicted, b.right) == (2, 3, 1)
    assert (b.precision, b.recall) == (pytest.approx(1 / 3), 0.5)
    assert (c.precision, c.recall, c.f1) == (None, None, None)
    assert a.f1 == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert b.f1 == pytest.approx(0.4)
    assert found.accuracy == 0.7
    assert found.macro_f1 == pytest.approx((a.f1 + 0.4) / 2)
    assert found.balanced_accuracy == pytest.approx(0.625)
    assert (found.unread, found.answers, found.majority) == (1, 10, 0.8)
    nothing = label_report(("a", "b"), [])
    assert (nothing.accuracy, nothing.macro_f1, nothing.answers) == (0.0, None, 0)


@parametrize(
    "name, millions",
    ("Qwen/Qwen2.5-0.5B-Instruct", 500),
    ("Qwen2.5-1.5B", 1500),
    ("mistralai/Mixtral-8x7B-v0.1", 56_000),
    ("Llama-2-70b-hf", 70_000),
    ("SmolLM2-135M-Instruct", 135),
    ("llama3_2_1b", 1000),
    ("lora_llama3_1_8b", 8000),
    ("qwen2_5_1_5b_instruct", 1500),
    ("qlora_qwen2_0_5b", 500),
    ("llama3_2_vision_11b", 11_000),
    ("unsloth/4bit-7b", 7000),
    ("unsloth/llama-3-8b-bnb-4bit", 8000),
    ("Qwen3-30B-A3B", 30_000),
    ("internlm2_5-7b-chat", 7000),
    ("stablelm-2-1_6b", 1600),
    ("llama_3_1_8b", 8000),
    ("qwen_2_5_7b", 7000),
    ("EleutherAI/pythia-6.9b-deduped", 6900),
    ("/models/llama-7b/checkpoint-500", 7000),
    (r"C:\models\llama-13b", 13_000),
)
def test_a_name_tells_its_size(name: str, millions: int) -> None:
    assert size_of_name(name) == millions * 1_000_000


@parametrize(
    "name",
    "microsoft/Phi-3-mini-4k-instruct",
    "phi3_mini",
    "gpt2",
    "Llama-4-Scout-17B-16E",
    "Qwen1.5-MoE-A2.7B",
    "",
    "4bit",
)
def test_a_name_without_a_size_tells_none(name: str) -> None:
    assert size_of_name(name) is None


@given(st.text(max_size=40))
def test_any_text_is_a_size_or_none(name: str) -> None:
    size = size_of_name(name)
    assert size is None or size >= 0


def test_names_of_the_catalogue_are_near_the_truth() -> None:
    """Within 45 %: what is sold as 7B has 6.7 to 8.5 billion parameters, and 8x7B shares all but the experts."""
    told = [(each.name, size_of_name(each.name), each.num_parameters) for each in public_models()]
    assert sum(size is not None for _, size, _ in told) > len(told) / 2
    assert [row for row in told if row[1] is not None and not 0.55 < row[1] / row[2] < 1.4] == []


@parametrize(
    "parameters, name",
    (1_236e6, "1B"),
    (494e6, "1B"),
    (3_213e6, "3B"),
    (7_616e6, "7B/8B"),
    (13e9, "13B"),
    (46.7e9, "70B"),
    (175e9, "175B"),
)
def test_classes_are_those_that_models_are_sold_as(parameters: float, name: str) -> None:
    assert size_class(int(parameters)) == name


def test_labels() -> None:
    assert [size_label(each) for each in (134_515_008, 1_000_000_000, 70_553_706_496)] == ["135M", "1B", "70.6B"]
