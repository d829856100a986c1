"""Rules on single answers: told in the prompt, cut off, not what the others are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from touchline.checks.data_text import ends_whole, open_fence, open_thought, short
from touchline.checks.data_view import DataRow, DataView
from touchline.checks.data_words import fault_of_rows, percent
from touchline.checks.rule import Fault, rule
from touchline.domain.finding import Severity
from touchline.jsontext import parse_json

_MARKER = re.compile(
    r"(?:answer|label|response|output|solution|target|ground truth|gold)(?:\s+is)?\s*[:=]\s*$", re.IGNORECASE
)
_BEFORE = 40
_LEAK_ROWS = 4
_LEAK_SHARE = 0.05
_LONG = 50
_CUT_ROWS = 3
_CUT_WORDS = 4
_CUT_LENGTH = 36
_EXTRACT_LENGTH = 15


@rule("DA350", Severity.WARNING)
def prompt_tells_the_answer(view: DataView) -> Iterator[Fault]:
    """The prompt ends with the answer, or gives it after a word such as `Answer:`.

    Why: the model learns to copy; in an evaluation it is told what it is asked.

    Fix: end the prompt before the answer. Often a column with question and answer together was taken as the prompt.

    Bad: data
        {"input": "Q: capital of France? A: Paris", "output": "Paris"}
        {"input": "Q: capital of Chile? A: Santiago", "output": "Santiago"}
        {"input": "Q: capital of Peru? A: Lima", "output": "Lima"}
        {"input": "Q: capital of Kenya? A: Nairobi", "output": "Nairobi"}

    Good: data
        {"input": "Q: capital of France? A:", "output": "Paris"}
        {"input": "Q: capital of Chile? A:", "output": "Santiago"}
        {"input": "Q: capital of Peru? A:", "output": "Lima"}
        {"input": "Q: capital of Kenya? A:", "output": "Nairobi"}
    """
    if view.layout.kind == "text" or view.count < _LEAK_ROWS:
        return
    labels = tuple(view.all_labels) if view.closed and len(view.all_labels) <= 50 else ()
    asked = [row for row in view.rows if row.label and row.asked]
    # Where the whole prompt is the answer, copying is what is asked: correcting, or finding nothing to correct.
    told = [row for row in asked if row.label != row.asked.strip() and _tells(row) and not _offers(row, labels)]
    ended = [row for row in told if row.asked.rstrip().endswith(row.label) and " " in row.label]
    if len(ended) >= max(_LEAK_ROWS, _LEAK_SHARE * len(asked)) and len(told) * 2 < len(asked):
        told = ended
    if len(told) >= _LEAK_ROWS and (len(told) * 2 >= len(asked) or told is ended):
        message = (
            f"the prompt ends with the answer, for example {short(told[0].asked[-60:])} with {short(told[0].label)}"
        )
        yield fault_of_rows(view, told, message, hint="end the prompt before the answer")


def _tells(row: DataRow) -> bool:
    answer = row.label
    bare = row.asked.rstrip().rstrip(".!\"'`")
    if bare.endswith(answer) and not bare[: -len(answer)][-1:].isalnum():
        before = bare[: -len(answer)].rstrip()
        # `Correct this: TEXT` with nothing to correct ends with the answer too; then it begins a line of its own or
        # follows a colon that names no answer.
        return _MARKER.search(before[-_BEFORE:]) is not None or before[-2:] in ("A:", "A.") or before.endswith("->")
    found = row.asked.rfind(answer)
    return found > 0 and len(answer) > 1 and _MARKER.search(row.asked[max(0, found - _BEFORE) : found]) is not None


def _offers(row: DataRow, labels: tuple[str, ...]) -> bool:
    """Whether the prompt names other answers too: then it offers a choice, or shows examples."""
    if row.candidates:
        return True
    return any(label != row.label and label not in row.label and label in row.asked for label in labels)


@rule("DA351", Severity.INFO)
def answers_stand_in_the_prompts(view: DataView) -> Iterator[Fault]:
    """Nearly every answer stands word for word in its prompt.

    Why: that is so where answers are taken from a passage; anywhere else the prompt gives them away.

    Fix: nothing where the task is to extract; else look at what the prompt shows.

    Bad: data
        {"input": "The river Ob flows north through Siberia. Where?", "output": "north through Siberia"}
        {"input": "The river Po flows east through the plain. Where?", "output": "east through the plain"}
        {"input": "The river Ebro flows south to the sea. Where?", "output": "south to the sea"}
        {"input": "The river Elbe flows north to Hamburg. Where?", "output": "north to Hamburg"}

    Good: data
        {"input": "Where does the river Ob flow?", "output": "north through Siberia"}
        {"input": "Where does the river Po flow?", "output": "east through the plain"}
        {"input": "Where does the river Ebro flow?", "output": "south to the sea"}
        {"input": "Where does the river Elbe flow?", "output": "north to Hamburg"}
    """
    if view.layout.kind == "text":
        return
    long = [row for row in view.rows if len(row.label) >= _EXTRACT_LENGTH and not row.candidates]
    within = [row for row in long if row.label in row.prompt]
    if len(long) >= _LEAK_ROWS and len(long) * 2 >= view.count and len(within) >= 0.9 * len(long):
        message = f"{percent(len(within), len(long))} of the longer answers stand word for word in their prompts"
        copied = sum(row.label == row.prompt.strip() for row in within)
        severity = Severity.WARNING if copied >= 0.9 * view.count else None
        hint = "fine where answers are taken from a passage"
        yield fault_of_rows(view, within, message, hint=hint, severity=severity)


@rule("DA352", Severity.WARNING)
def answers_cut_at_one_length(view: DataView) -> Iterator[Fault]:
    """Several answers have exactly the greatest length and stop within a sentence.

    Why: they were cut when the data was made; the model learns to stop there too.

    Fix: make these answers again without the limit, or take the rows out.

    Bad: data
        {"input": "Tell of the sea.", "output": "The sea is wide and old, and ships go"}
        {"input": "Tell of the sun.", "output": "The sun is far and hot, and plants ne"}
        {"input": "Tell of a tree.", "output": "A tree is tall and slow, and birds co"}
        {"input": "Tell of a dog.", "output": "A dog is quick and loyal."}
        {"input": "Tell of a cat.", "output": "A cat is quiet and proud."}
        {"input": "Tell of a cow.", "output": "A cow is calm and big."}
        {"input": "Tell of a bee.", "output": "A bee is small and busy."}

    Good: data
        {"input": "Tell of the sea.", "output": "The sea is wide and old, and ships go far."}
        {"input": "Tell of the sun.", "output": "The sun is far and hot, and plants need it."}
        {"input": "Tell of a tree.", "output": "A tree is tall and slow, and birds come."}
        {"input": "Tell of a dog.", "output": "A dog is quick and loyal."}
        {"input": "Tell of a cat.", "output": "A cat is quiet and proud."}
        {"input": "Tell of a cow.", "output": "A cow is calm and big."}
        {"input": "Tell of a bee.", "output": "A bee is small and busy."}
    """
    found = _cut_at_the_greatest(view) or _cut_at_one(view)
    if found is not None:
        cut, message = found
        yield fault_of_rows(view, cut, message, hint="make them again without the limit")


def _cut_at_the_greatest(view: DataView) -> tuple[list[DataRow], str] | None:
    """Answers of the greatest length, of which nearly all stop within a sentence."""
    lengths = Counter(len(row.answer) for row in view.rows if row.answer)
    most = max(lengths, default=0)
    if most < _CUT_LENGTH or lengths[most] < max(_CUT_ROWS, view.count // 100):
        return None
    longest = [row for row in view.rows if row.answer and len(row.answer) == most]
    others = [row for row in view.rows if row.answer and len(row.answer) != most]
    cut = [row for row in longest if not ends_whole(row.answer or "")]
    whole = sum(ends_whole(row.answer or "") for row in others)
    if len({row.label for row in cut}) < _CUT_ROWS or len(cut) * 10 < len(longest) * 7 or whole * 10 < len(others) * 7:
        return None
    # Codes and hashes have one length too; what was cut has words.
    if others or all(row.label.count(" ") >= _CUT_WORDS for row in cut):
        return cut, f"answers stop within a sentence at exactly {most:,} characters, the greatest length"
    return None


def _cut_at_one(view: DataView) -> tuple[list[DataRow], str] | None:
    """Of the answers that stop within a sentence nearly all have one length, where nearly all others end whole."""
    worded = [row for row in view.rows if row.label.count(" ") >= _CUT_WORDS]
    cut = [row for row in worded if not ends_whole(row.label)]
    if len(cut) < _CUT_ROWS or len(cut) * 2 > len(worded):
        return None
    length, count = Counter(len(row.answer or "") for row in cut).most_common(1)[0]
    if length < _CUT_LENGTH or count < _CUT_ROWS or count * 10 < len(cut) * 8:
        return None
    return cut, f"answers stop within a sentence at exactly {length:,} characters, where the others end"


@rule("DA353", Severity.INFO)
def answer_stops_within_a_sentence(view: DataView) -> Iterator[Fault]:
    """A long answer stops within a sentence or a block of code, where nearly all others end.

    Why: it was probably cut when the data was made.

    Fix: look at these rows.

    Bad: data
        {"input": "Tell of sea.", "output": "The sea is wide and old, and ships have crossed it for long."}
        {"input": "Tell of sun.", "output": "The sun is far and hot, and every plant there is needs light."}
        {"input": "Tell of tree.", "output": "A tree is tall and slow, and birds build nests in its crown."}
        {"input": "Tell of dog.", "output": "A dog is quick and loyal, and it knows its people by a step."}
        {"input": "Tell of cat.", "output": "A cat is quiet and proud, and it sleeps through half a day."}
        {"input": "Tell of cow.", "output": "A cow is calm and big, and it eats grass from dawn to night."}
        {"input": "Tell of bee.", "output": "A bee is small and busy, and it carries pollen as it flies."}
        {"input": "Tell of owl.", "output": "An owl is silent and wise, so they say, and hunts by night."}
        {"input": "Tell of fox.", "output": "A fox is red and clever, and it lives at the edges of towns."}
        {"input": "Tell of elk.", "output": "An elk is large and shy, and it walks through snow and rests where the"}

    Good: data
        {"input": "Tell of sea.", "output": "The sea is wide and old, and ships have crossed it for long."}
        {"input": "Tell of sun.", "output": "The sun is far and hot, and every plant there is needs light."}
        {"input": "Tell of tree.", "output": "A tree is tall and slow, and birds build nests in its crown."}
        {"input": "Tell of dog.", "output": "A dog is quick and loyal, and it knows its people by a step."}
        {"input": "Tell of cat.", "output": "A cat is quiet and proud, and it sleeps through half a day."}
        {"input": "Tell of cow.", "output": "A cow is calm and big, and it eats grass from dawn to night."}
        {"input": "Tell of bee.", "output": "A bee is small and busy, and it carries pollen as it flies."}
        {"input": "Tell of owl.", "output": "An owl is silent and wise, so they say, and hunts by night."}
        {"input": "Tell of fox.", "output": "A fox is red and clever, and it lives at the edges of towns."}
        {"input": "Tell of elk.", "output": "An elk is large and shy, and it walks through snow in winter."}
    """
    if view.layout.kind == "text":
        return
    long = [row for row in view.rows if len(row.label) >= _LONG]
    cut = [row for row in long if open_fence(row.label) or open_thought(row.label) or not ends_whole(row.label)]
    if cut and len(cut) * 10 <= len(long):
        message = f"{percent(len(cut), len(long))} of the long answers stop within a sentence or a block of code"
        severity = Severity.WARNING if any(open_thought(row.label) for row in cut) else None
        example = f"for example {short(cut[0].label[-50:])}"
        yield fault_of_rows(view, cut, f"{message}, {example}", severity=severity)


@rule("DA354", Severity.WARNING)
def answer_is_broken_json(view: DataView) -> Iterator[Fault]:
    """Answers are JSON, and some cannot be read as JSON.

    Why: the model learns to write what no program can read; such an answer was often cut.

    Fix: repair these answers or take them out.

    Bad: data
        {"input": "order 1", "output": "{\\"item\\": \\"tea\\", \\"count\\": 2}"}
        {"input": "order 2", "output": "{\\"item\\": \\"salt\\", \\"count\\": 1}"}
        {"input": "order 3", "output": "{\\"item\\": \\"rice\\", \\"cou"}
        {"input": "order 4", "output": "{\\"item\\": \\"milk\\", \\"count\\": 3}"}

    Good: data
        {"input": "order 1", "output": "{\\"item\\": \\"tea\\", \\"count\\": 2}"}
        {"input": "order 2", "output": "{\\"item\\": \\"salt\\", \\"count\\": 1}"}
        {"input": "order 3", "output": "{\\"item\\": \\"rice\\", \\"count\\": 5}"}
        {"input": "order 4", "output": "{\\"item\\": \\"milk\\", \\"count\\": 3}"}
    """
    answered = [row for row in view.rows if row.label]
    shaped = [row for row in answered if row.label.startswith(('{"', "[{", '["'))]
    if len(shaped) < _LEAK_ROWS or len(shaped) * 2 < len(answered):
        return
    broken = [row for row in shaped if not _reads(row.label)]
    if broken and len(broken) * 4 <= len(shaped):
        message = f"{percent(len(broken), len(shaped))} of the answers in JSON cannot be read as JSON"
        yield fault_of_rows(view, broken, f"{message}, for example {short(broken[0].label[-50:])}")


def _reads(text: str) -> bool:
    try:
        parse_json(text, allow_half_characters=True)
    except ValueError:
        return False
    return True
