"""The label that an answer gives, and what answers show label by label."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.errors import InputError
from touchline.experiment.tasks.classification import LISTED_LABELS, indistinct, label_prompt, read_label
from touchline.experiment.tasks.ready_made import TASKS, get_task
from touchline.statistics.labels import label_report

pytestmark = pytest.mark.planning

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
    wrong = [
        (text, labels, wanted, got) for text, labels, wanted in READ if (got := read_label(text, labels)) != wanted
    ]
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
