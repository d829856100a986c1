"""Classification with a fixed set of labels, read from the output."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from touchline.core.errors import InputError
from touchline.experiment.tasks.protocol import Scores, Task, chosen, score_text

LISTED_LABELS = 20
"""The task's own prompt names at most so many labels."""
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019\u02bc](?=\w)")
# A letter of a script without spaces is a token of its own; a number keeps its sign; a sign such as + or # counts.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"(?<![\w.])[-\u2212+]?\d+(?:[.,]\d+)*(?![^\W_])|[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s]")
_SIGNS = frozenset("+#&%$@*=<>~^")
"""Signs that distinguish labels, as in C, C++ and C#."""
_NEGATIONS = frozenset(
    [
        "not", "no", "non", "never", "neither", "nor", "cannot", "cant", "isnt", "arent", "wasnt", "werent",
        "dont", "doesnt", "didnt", "wont", "without", "nicht", "kein", "keine", "keinen", "nie", "pas", "ni",
        "nao", "não", "не", "нет", "不", "非", "没", "沒", "無",
    ]
)  # fmt: skip
_ONLY = frozenset({"only", "just", "merely", "simply", "nur", "seulement"})
"""Behind a negation they take it back: not only good."""
_BUT = frozenset({"but", "rather", "instead", "however", "sondern", "aber", "mais", "sino", "pero"})
_JOINS = frozenset({"or", "nor", "oder", "ou", "o", "und", "and", "/", "|"})
_BREAKS = frozenset(".;:!?,\n")
_REACH = 3
"""Words that may stand between a negation and the label that it denies: not a very positive one."""
_MARKER = frozenset(
    [
        "answer", "label", "class", "category", "classification", "sentiment", "prediction", "predicted",
        "output", "result",
    ]
)  # fmt: skip
_BETWEEN = frozenset(
    ["is", "the", "a", "an", "as", "be", "would", "should", ":", "=", "-", "*", '"', "'", "`", "(", "[", "{", ">", "→"]
)


@dataclass(frozen=True, slots=True)
class _Found:
    """A label in a text."""

    label: str
    start: int
    stop: int
    denied: bool
    """Whether it is named only to be denied."""


def read_label(output: str, labels: Sequence[str]) -> str | None:
    """Return the label that an output gives as its answer; None if it gives none, or several.

    Case, spaces, hyphens and punctuation do not count. Of labels that begin alike the longest one is read, and only as
    a whole word. A label that is denied (`not positive`) is not the answer. What follows `answer:` or `label is` goes
    first, then the first line that names any label: it must name one label only, or begin with its answer.
    """
    text = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", output))
    same = [label for label in labels if label.strip() == output.strip()]
    same = same or [label for label in labels if label_key(label) == label_key(text)]
    if same:
        return same[0]
    if all(len(label.strip()) == 1 and label.strip().isalpha() for label in labels):
        return _letter(text, labels)
    table = _table(tuple(labels))
    tokens = _tokens(text)
    found = list(_occurrences(tokens, table))
    return _marked(tokens, found) or _on_first_line(tokens, found)


def score_classification(output: str, target: str, labels: Sequence[str]) -> Scores:
    """Score one answer: `match` is whether the label that was read is the target.

    Raises:
        InputError: the target is empty.
    """
    wanted = canonical_label(target, labels)
    if not wanted:
        raise InputError("an empty target cannot be scored", expected="a label in every row")
    label = read_label(output, labels if wanted in labels else (*labels, wanted))
    return Scores(exact=output.strip() == target.strip(), match=label == wanted, parsed=label is not None, label=label)


def canonical_label(text: str, labels: Sequence[str]) -> str:
    """Return the label that a text of the data is: itself, or the one that differs from it in case and spaces alone."""
    key = label_key(text)
    return next((label for label in labels if label_key(label) == key), text.strip())


def label_key(text: str) -> str:
    """Return a text without what two spellings of one label may differ in: case, and spaces around and within."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def merge_spellings(written: Mapping[str, int]) -> Counter[str]:
    """Return counts of labels, each written as most of its answers are, the alphabetically first of several."""
    spellings: dict[str, Counter[str]] = {}
    for answer, number in written.items():
        spellings.setdefault(label_key(answer), Counter())[answer] += number
    return Counter({max(sorted(each), key=each.__getitem__): each.total() for each in spellings.values()})


def indistinct(labels: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two labels that are read alike; None if all differ."""
    seen: dict[tuple[str, ...], str] = {}
    for label in labels:
        other = seen.setdefault(_name(label), label)
        if other != label:
            return other, label
    return None


def label_prompt(labels: Sequence[str]) -> str:
    """Return the task's own prompt: the labels, where they are few, and the text."""
    # A brace in a label would be taken for a column.
    named = labels if len(labels) <= LISTED_LABELS and not any(set("{}") & set(label) for label in labels) else ()
    which = f"one of these labels: {', '.join(named)}" if named else "its label"
    return f"Classify the text. Answer with {which}.\n\nText: {{input}}"


def _with_labels(labels: Sequence[str]) -> Task:
    known = tuple(labels)
    return replace(
        CLASSIFICATION,
        prompt=label_prompt(known),
        score=functools.partial(score_classification, labels=known),
    )


def _letter(text: str, labels: Sequence[str]) -> str | None:
    """Read one of several letters, which in running text would be words: `I`, `A`."""
    letter = chosen(text) or text.strip(" \t\r\n.()[]*\"'")
    return next((label for label in labels if label.strip().casefold() == letter.casefold()), None)


def _tokens(text: str) -> list[str]:
    """Split a text into words, numbers and signs; a line's end is a token."""
    found: list[str] = []
    for line in text.splitlines():
        found += [match[0].casefold().replace("\u2212", "-") for match in _TOKEN.finditer(_APOSTROPHE.sub("", line))]
        found.append("\n")
    return found


def _name(label: str) -> tuple[str, ...]:
    """Return the tokens of a label that count."""
    tokens = [token for token in _tokens(unicodedata.normalize("NFKC", label)) if token != "\n"]
    return tuple(token for token in tokens if _counts(token)) or tuple(tokens)


def _counts(token: str) -> bool:
    return token in _SIGNS or any(character.isalnum() for character in token)


@functools.lru_cache(maxsize=64)
def _table(labels: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Return the labels by their tokens; also written together, as `nontoxic` for `non-toxic`."""
    table: dict[tuple[str, ...], str] = {}
    for label in labels:
        table.setdefault(_name(label), label)
    for label in labels:
        joined = "".join(_name(label))
        if len(_name(label)) > 1 and joined.isalnum():
            table.setdefault((joined,), label)
    return table


def _occurrences(tokens: Sequence[str], table: dict[tuple[str, ...], str]) -> Iterator[_Found]:
    """Find labels from left to right, of those that begin alike the longest."""
    names = {token for name in table for token in name}
    longest = max(map(len, table), default=0)
    before: _Found | None = None
    place = 0
    while place < len(tokens):
        found = None
        for size in range(longest, 0, -1):
            stop = _end(tokens, place, size)
            name = () if stop is None else tuple(token for token in tokens[place:stop] if _counts(token))
            label = table.get(name) or (table.get(tuple(tokens[place:stop])) if stop is not None else None)
            if label is not None and stop is not None and (name == () or _counts(tokens[place])):
                denied = _is_denied(tokens, place, before, names)
                found = _Found(label, place, stop, denied)
                break
        if found is None:
            place += 1
            continue
        yield found
        before, place = found, found.stop


def _end(tokens: Sequence[str], start: int, size: int) -> int | None:
    """Return the place behind `size` tokens that count; hyphens and the like between them do not, a line's end does."""
    seen = 0
    for place in range(start, len(tokens)):
        if tokens[place] in ("\n", "."):
            return None
        seen += _counts(tokens[place]) or size == 1
        if seen == size:
            return place + 1
    return None


def _is_denied(tokens: Sequence[str], start: int, before: _Found | None, names: set[str]) -> bool:
    """Return True if a label is named only to be denied."""
    floor = 0 if before is None else before.stop
    between = tokens[floor:start]
    if before is not None and before.denied and between and all(token in _JOINS for token in between):
        return True
    words = 0
    for place in range(start - 1, floor - 1, -1):
        token = tokens[place]
        if token in _BREAKS or token in _BUT:
            return False
        if not _counts(token):
            continue
        if token in _NEGATIONS and token not in names:
            return tokens[place + 1] not in _ONLY
        words += 1
        if words > _REACH:
            return False
    return False


def _marked(tokens: Sequence[str], found: Sequence[_Found]) -> str | None:
    """Return the label behind the last `answer:`, `label is` and the like; None if none stands there."""
    for each in reversed(found):
        place = each.start - 1
        while place >= 0 and tokens[place] in _BETWEEN:
            place -= 1
        if place >= 0 and place < each.start - 1 and tokens[place] in _MARKER and not each.denied:
            return None if _goes_on_with_another(tokens, each, found) else each.label
    return None


def _on_first_line(tokens: Sequence[str], found: Sequence[_Found]) -> str | None:
    """Return the one label of the first line that names any, or the label that this line begins with."""
    start = 0
    for stop in [place for place, token in enumerate(tokens) if token == "\n"]:
        here = [each for each in found if start <= each.start < stop]
        answers = [each for each in here if not each.denied]
        if answers:
            if len({answer.label for answer in answers}) == 1:
                return answers[0].label
            first = answers[0]
            leads = not any(_counts(token) for token in tokens[start : first.start])
            return first.label if leads and not _goes_on_with_another(tokens, first, found) else None
        start = stop + 1
    return None


def _goes_on_with_another(tokens: Sequence[str], each: _Found, found: Sequence[_Found]) -> bool:
    """Return True if another label is offered next to this one: `positive or negative`, `positive/negative`."""
    after = next((other for other in found if other.start >= each.stop), None)
    if after is None or after.label == each.label:
        return False
    between = tokens[each.stop : after.start]
    return all(token in _JOINS or token == "," or not _counts(token) for token in between) and "\n" not in between


def _alone(output: str, target: str) -> Scores:
    """Score where the labels are not known: the whole output must be the target's label."""
    scores = score_text(output, target)
    kept = _bare(target)
    return replace(scores, match=scores.exact or (bool(kept) and _bare(output) == kept))


def _bare(text: str) -> str:
    return "".join(character for character in text.casefold() if _counts(character))


CLASSIFICATION = Task(
    name="classification",
    prompt=label_prompt(()),
    score=_alone,
    metrics=(("accuracy", "match"), ("exact match", "exact")),
    with_labels=_with_labels,
)
