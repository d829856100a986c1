"""The grammar of a line that a training loop prints: names with numbers, and nothing else.

`[2024-05-01 10:00:00] Epoch [1/3], Step [100/600], Loss: 0.2345 (best)` has the items Epoch 1 of 3, Step 100 of 600 and
Loss 0.2345. A line with other words in between is a sentence, whatever numbers it holds, and has no items at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from touchline.backends.logtext.parts import to_number
from touchline.backends.logtext.vocabulary import Concept, Meaning, Split, meaning_of, words_of

_LENGTH_LIMIT = 600
_NAME_LIMIT = 40
_NUMBER = (
    r"\d+,(?:\d{1,2}|\d{4,})(?![\d.,])|0,\d{3}(?![\d.,])"
    r"|[-+]?(?:\d{1,3}(?:[,_]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"|[-+]?\.\d+(?:[eE][-+]?\d+)?|[-+]?(?i:nan|inf|infinity)(?!\w)"
)
_WORD = r"(?:[^\W\d_](?:[\w./@%+-]*[\w%])?|_\w+)\.?"
_UNITS = (
    r"(?:m?s|sec|min)/(?:step|iter|it|batch)|(?:its?|steps?|batch(?:es)?|samples?|ex|examples?|tok|tokens)/s(?:ec)?"
    r"|tflops(?:/s)?|[kmgt]i?b|ms|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|days?|tokens|toks?|samples|examples"
    r"|batches|steps|iters|iterations|nats|bits|[kgtxb%]"
)
_ITEM = re.compile(
    rf"(?:(?<![\w./@%+-])(?P<name>{_WORD}(?: {_WORD}){{0,5}})\s*[:=]?\s*)?[\[(]?(?<![\w.])"
    rf"(?:(?P<clock>\d+:\d\d(?::\d\d)?(?:\.\d+)?(?![\d.]))"
    rf"|(?P<value>{_NUMBER})(?!:\d\d)(?:\s*(?:/|of(?=\s))\s*(?P<total>(?:\d{{1,3}}(?:[,_]\d{{3}})+|\d+)(?:\.\d+)?))?[\])]*"
    rf"(?:(?P<unit>(?i:{_UNITS}))(?![\w/])|\s+(?P<apart>(?i:{_UNITS}))(?![\w/])(?!\s*[:=]|\s+[-+.\d]))?)"
)
_RATES = {
    **dict.fromkeys(("tok/s", "tokens/s", "tokens/sec", "tok/sec"), Concept.TOKEN_RATE),
    **dict.fromkeys(("s/step", "s/it", "s/iter", "ms/step", "ms/it", "ms/iter"), Concept.STEP_TIME),
}
"""Units that say what a number without a name is of."""
_BARE = words_of(
    "summary result results metrics log end of finished done completed complete avg average mean epoch rank worker"
    " stats status progress info report and at per in lr n/a none null true false step iter"
)
"""Words that may stand without a number."""
_REMARK = re.compile(r"(?P<before>\w *)?\((?P<inside>[^():=]{1,30})\)")
_COUNTED = re.compile(r"\s*\d+\s*/\s*\d+\s*|.*[^\W\d_]\s+[\d.].*")
_VALUE = re.compile(r"[\w./-]+\s*[:=]\s*[^\W\d][\w./-]*(?=[\s,|;)\]]|$)")
"""A name with a word: `device: cuda`."""
_LABELS = re.compile(rf"{_WORD}(?: {_WORD})*")
_FIELD_ENDS = re.compile(r"\s*(?:[|;\t→]|->)\s*|,\s+|\s+[-–—•·]+\s+|\s{3,}|(?<=[\d\])%])\s+(?=[A-Za-z_][\w./-]*=)")
_UNKNOWN_LENGTH = 48
_COUNTERS = frozenset({Concept.EPOCH, Concept.STEP, Concept.GLOBAL_STEP, Concept.BATCH})


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A name with its number."""

    meaning: Meaning
    value: str
    """The number, as written, with a decimal point."""
    total: float | None = None
    """Total after the number: 3 in `1/3`."""
    unit: str = ""
    """Unit in lower case, if there is one."""
    scope: Split | None = None
    """Data that a label before it names: `val | loss 0.5`."""
    name: str = ""

    @property
    def number(self) -> float | None:
        """Value, if it is finite."""
        return to_number(self.value)

    @property
    def split(self) -> Split:
        """Data that it is of."""
        return self.meaning.split or self.scope or Split.TRAIN


@dataclass(kw_only=True, slots=True)
class Line:
    """Content of a line."""

    items: list[Item] = field(default_factory=list)
    """Items in order, those of other names included."""
    fraction: tuple[float, float] | None = None
    """A fraction without a name behind the first item: `Epoch: [0][10/500]`."""
    scope: Split | None = None

    def first(self, *concepts: Concept) -> Item | None:
        """Return the first item of one of the concepts, in the order of the concepts."""
        found = (item for concept in concepts for item in self.items if item.meaning.concept is concept)
        return next(found, None)


def parse(rest: str) -> Line | None:
    """Return the items of a line without its prefix; None if it holds anything else."""
    if len(rest) > _LENGTH_LIMIT:
        return None
    text = _REMARK.sub(_without_remark, rest)
    return _items(text, None) or _by_fields(text)


def _without_remark(match: re.Match[str]) -> str:
    """Return what stays of words in parentheses: a count, and a word about the name before it."""
    inside, before = match["inside"], match["before"] or ""
    if _COUNTED.fullmatch(inside):
        return match.group()
    return f"{before} {inside}" if before and meaning_of(inside).split is not None else before


def _by_fields(rest: str) -> Line | None:
    """Return the items of a row with a field that is not known: an odd unit, a date, a remark.

    Fields are parted by bars, commas, tabs or dashes. A sentence has no field with a counter and none with a loss.
    """
    parts = [part for part in _FIELD_ENDS.split(rest) if part.strip()]
    result, unknown = Line(), 0
    for part in parts:
        parsed = _items(part, result.scope)
        if parsed is None:
            unknown += len(part)
            continue
        result.fraction = result.fraction or parsed.fraction
        result.scope = parsed.scope
        result.items += parsed.items
    measured = [item for item in result.items if item.meaning.concept not in _COUNTERS]
    counted = len(measured) < len(result.items)
    if len(parts) < 2 or not counted or not measured or unknown > max(_UNKNOWN_LENGTH, len(rest) // 2):
        return None
    return result


def _items(text: str, scope: Split | None) -> Line | None:
    """Return the items of a text that holds numbers, their names, and labels; None if it holds other words."""
    line, end = Line(scope=scope), 0
    for match in _ITEM.finditer(text):
        if not _takes_labels(line, text[end : match.start()]):
            return None
        end = match.end()
        if match["clock"] is None and not _takes_number(line, match, text):
            return None
    return line if _takes_labels(line, text[end:]) else None


def _takes_labels(line: Line, between: str) -> bool:
    """Return True if the words without a number may stand there; names of data hold for what follows."""
    for label in _LABELS.findall(_VALUE.sub(" ", between)):
        meaning = meaning_of(label)
        if meaning.split is not None and meaning.concept is None:
            line.scope = meaning.split
        elif meaning.split is None and not all(word.strip(".").lower() in _BARE for word in label.split()):
            return False
    return True


def _takes_number(line: Line, match: re.Match[str], text: str) -> bool:
    value, total = match["value"], to_number(match["total"])
    if re.fullmatch(r"\d+,(?:\d{1,2}|\d{4,})|0,\d{3}", value):
        value = value.replace(",", ".")
    unit = (match["unit"] or match["apart"] or "").lower()
    name = (match["name"] or "").lower()
    if name:
        meaning = meaning_of(name)
        if meaning.concept is None and len(name) > _NAME_LIMIT:
            return False
        line.items.append(Item(meaning=meaning, value=value, total=total, unit=unit, scope=line.scope, name=name))
        if meaning.concept in (Concept.EPOCH, Concept.STEP) and meaning.split is not None:
            line.scope = meaning.split
        return True
    if total is not None:
        line.fraction = line.fraction or ((to_number(value) or 0.0, total) if len(line.items) == 1 else None)
    if unit in _RATES and line.items:
        line.items.append(Item(meaning=Meaning(concept=_RATES[unit]), value=value, unit=unit, scope=line.scope))
    enclosed = match.group()[:1] in "[(" and match.group()[-1:] in "])"
    return total is not None or bool(unit) or enclosed or text[match.end() :].lstrip()[:1] == "%"
