"""The grammar of a line that a training loop prints: names with numbers, and nothing else.

`[2024-05-01 10:00:00] Epoch [1/3], Step [100/600], Loss: 0.2345 (best)` has the items Epoch 1 of 3, Step 100 of 600 and
Loss 0.2345. A line with other words in between is a sentence, whatever numbers it holds, and has no items at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from touchline.backends.logtext.numbers import to_number
from touchline.history.loops.vocabulary import Concept, Meaning, Split, meaning_of, words_of

LENGTH_LIMIT = 600
_NUMBER = (
    r"[-+]?(?:\d{1,3}(?:[,_]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"|[-+]?\.\d+(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf|infinity)(?!\w)"
)
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<clock>\d+:\d\d(?::\d\d)?(?:\.\d+)?(?![\d.]))"
    r"|(?P<comma>\d+,(?:\d{1,2}|\d{4,})(?![\d.,])|0,\d{3}(?![\d.,]))"
    rf"|(?P<number>(?i:{_NUMBER}))"
    r"|(?P<word>[^\W\d_](?:[\w./@%+-]*[\w%])?|_\w+)"
    r"|(?P<sign>.)",
    re.DOTALL,
)
_UNITS = words_of(
    "ms s sec secs second seconds m min mins minutes h hr hrs hour hours it/s its/s s/it s/step"
    " ms/step s/iter s/batch"
    " steps/s step/s batches/s batch/s samples/s samples/sec sample/s ex/s examples/s tok/s tokens/s"
    " tokens/sec tok/sec"
    " tokens toks tok samples examples day days d images img imgs k m b g t kb mb gb tb kib mib gib tib tflops tflop/s"
    " gflops tflops/s  nats bits x w c batches steps iters iterations"
    " % ms/iter ms/it"
)
_BARE_RATES = {
    **dict.fromkeys(("tok/s", "tokens/s", "tokens/sec", "tok/sec"), Concept.TOKEN_RATE),
    **dict.fromkeys(("s/step", "s/it", "s/iter", "ms/step", "ms/it", "ms/iter"), Concept.STEP_TIME),
}
"""Units that say what a number without a name is of."""
_BARE = words_of(
    "train training trn val valid validation eval evaluation evaluating dev test testing summary"
    " result results metrics"
    " log end of finished done completed complete avg average mean epoch rank worker stats status"
    " progress info report"
    " and at per in lr n/a none null nan true false step iter -"
)
"""Words that may stand without a number."""
_SEPARATORS = frozenset(",|;•·—–→>~*#\\")
_IGNORED = frozenset("[]()!✓✔✅★☆▶►➤│")
_TAIL = re.compile(
    r"[\W_]*(?:(?:new |current |is )?best\b|saved?\b|saving|checkpoint|improved|no improvement|patience|early|eta\b"
    r"|elapsed|remaining|time\b|took|model|lr\b|🎉|✅|$)",
    re.IGNORECASE,
)
_FIELD_ENDS = re.compile(r"\s*[|;\t]\s*|,\s+|\s+[-–—•·]+\s+|\s{3,}|(?<=[\d\])%])\s+(?=[A-Za-z_][\w./-]*=)")
_ODD_UNIT = re.compile(r"(?P<known>.*\d\S*?)(?:\s+|(?<=\d))[^\W\d]{1,16}(?:/[^\W\d]{1,12})?\s*[.;]?\s*$")
"""A number with a word behind it that is no unit that is known: `loss 1.1918 BPC`."""
_UNKNOWN_LENGTH = 48
_COUNTERS = frozenset({Concept.EPOCH, Concept.STEP, Concept.GLOBAL_STEP, Concept.BATCH})


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A name with its number."""

    meaning: Meaning
    """Meaning of the name."""
    value: str
    """The number, as written, with a decimal point."""
    total: float | None = None
    """Total after the number: 3 in `1/3`."""
    unit: str = ""
    """Unit in lower case, if there is one."""
    scope: Split | None = None
    """Data that a label before it names: `val | loss 0.5`."""
    name: str = ""
    """The name itself, in lower case."""

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
    lead: tuple[float, float] | None = None
    """A fraction without a name that the line begins with: `[10/500] loss: 0.5`."""

    def first(self, *concepts: Concept) -> Item | None:
        """Return the first item of one of the concepts, in the order of the concepts."""
        for concept in concepts:
            for item in self.items:
                if item.meaning.concept is concept:
                    return item
        return None


def parse(rest: str) -> Line | None:
    """Return the items of a line without its prefix; None if it holds anything else."""
    if len(rest) > LENGTH_LIMIT:
        return None
    return _Parser(rest).line() or _by_fields(rest)


def _by_fields(rest: str) -> Line | None:
    """Return the items of a row with a field that is not known: an odd unit, a date, a remark.

    Fields are parted by bars, commas, tabs or dashes. A sentence has no field with a counter and none with a loss.
    """
    parts = [part for part in _FIELD_ENDS.split(rest) if part.strip()]
    if len(parts) < 2:
        return None
    result, unknown = Line(), 0
    scope: Split | None = None
    for part in parts:
        parser = _Parser(part, scope)
        parsed = parser.line()
        if parsed is None and (known := _ODD_UNIT.match(part)) is not None:
            parsed = _Parser(known.group("known"), scope).line()
        if parsed is None:
            unknown += len(part)
            continue
        scope = parser.scope
        result.lead = result.lead or (None if result.items else parsed.lead)
        result.fraction = result.fraction or parsed.fraction
        result.items += parsed.items
    counted = result.lead is not None or any(item.meaning.concept in _COUNTERS for item in result.items)
    measured = sum(item.meaning.concept not in _COUNTERS for item in result.items)
    if not counted or not measured or unknown > max(_UNKNOWN_LENGTH, len(rest) // 2):
        return None
    return result


class _Parser:
    """Parser of one line, from left to right."""

    def __init__(self, text: str, scope: Split | None = None) -> None:
        self.text = text
        self.tokens = [match for match in _TOKEN.finditer(text) if match.lastgroup != "space"]
        self.at = 0
        self.name: list[str] = []
        self.is_named = False  # a colon or equals sign stands behind the name
        self.scope = scope
        self.depth = 0
        self.result = Line()

    def line(self) -> Line | None:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            match token.lastgroup:
                case "word":
                    well = self._word(token.group())
                case "number" | "comma":
                    well = self._number(token)
                case "clock":
                    self.name, self.is_named, well = [], False, True
                case _:
                    well = self._sign(token)
            if not well:
                return self._tail(token.start())
            self.at += 1
        return self.result if self._label() else self._tail(len(self.text))

    def _tail(self, start: int) -> Line | None:
        """Return the result if only words are left that may follow it."""
        known = {item.meaning.concept for item in self.result.items}
        if Concept.LOSS not in known or self.is_named:
            return None
        begin = start
        for token in reversed(self.tokens[: self.at]):
            if token.lastgroup != "word" or not self.name:
                break
            begin = token.start()
            self.name.pop()
        return self.result if _TAIL.match(self.text[begin:]) else None

    def _word(self, word: str) -> bool:
        if self.is_named:
            # `Val: loss 0.5` is a label; `device: cuda` is a value.
            if self._label():
                self.is_named = False
            else:
                self.name, self.is_named = [], False
                return True
        self.name.append(word)
        return len(self.name) <= 6

    def _label(self) -> bool:
        """Take words without a number: permitted ones, and names of data, which hold for what follows."""
        words, self.name = self.name, []
        if not words:
            return True
        meaning = meaning_of(" ".join(words))
        if meaning.split is not None and meaning.concept is None:
            self.scope = meaning.split
        if all(word.lower() in _BARE for word in words) or meaning.split is not None:
            return True
        self.name = words
        return False

    def _sign(self, token: re.Match[str]) -> bool:
        sign = token.group()
        if sign in ":=":
            self.is_named = bool(self.name)
            return True
        if sign == "(":
            self.depth += 1
            # `Loss 2.3 (2.5)`, `loss (train): 2.3`, `50 (step)`
            closing = self.text.find(")", token.start())
            inner = self.text[token.start() + 1 : closing] if closing > 0 else ""
            counted = re.fullmatch(r"\s*\d+\s*/\s*\d+\s*", inner) is not None and self.result.fraction is None
            if inner and not counted and not re.search(r"[:=(]|[^\W\d_]\s+[\d.]", inner) and len(inner) <= 30:
                while self.at + 1 < len(self.tokens) and self.tokens[self.at + 1].start() <= closing:
                    self.at += 1
                self.depth -= 1
                if self.name and inner.strip().lower() in _BARE:
                    self.name.append(inner.strip())
            return True
        if sign in _IGNORED:
            return True
        if sign in _SEPARATORS or (sign == "-" and self._stands_alone(token)):
            self.is_named = False
            return self._label()
        if sign == "." and self._stands_alone(token):
            return self._label()
        return sign in "-./+%&" and not self.name

    def _stands_alone(self, token: re.Match[str]) -> bool:
        after = self.text[token.end() : token.end() + 1]
        return not after or not after.isdigit()

    def _number(self, token: re.Match[str]) -> bool:
        total = self._total()
        unit = self._unit()
        name, self.name, self.is_named = " ".join(self.name), [], False
        value = token.group().replace(",", ".") if token.lastgroup == "comma" else token.group()
        if not name:
            if total is not None and not self.result.items and self.result.lead is None:
                self.result.lead = (to_number(value) or 0.0, total)
            if total is not None and len(self.result.items) == 1 and self.result.fraction is None:
                self.result.fraction = (to_number(value) or 0.0, total)
            if unit in _BARE_RATES and self.result.items:
                meaning = Meaning(concept=_BARE_RATES[unit])
                self.result.items.append(Item(meaning=meaning, value=value, unit=unit, scope=self.scope))
            return total is not None or bool(unit) or self._is_enclosed(token)
        meaning = meaning_of(name)
        if meaning.concept is None and len(name) > 40:
            return False
        self.result.items.append(
            Item(meaning=meaning, value=value, total=total, unit=unit, scope=self.scope, name=name.lower())
        )
        if meaning.concept in (Concept.EPOCH, Concept.STEP) and meaning.split is not None:
            self.scope = meaning.split
        return True

    def _total(self) -> float | None:
        """Return the total of `/3` or `of 3` after a number."""
        following = self.tokens[self.at + 1 : self.at + 3]
        if len(following) < 2 or following[1].lastgroup != "number":
            return None
        if following[0].group().lower() not in ("/", "of"):
            return None
        self.at += 2
        return to_number(following[1].group())

    def _unit(self) -> str:
        """Return the unit after a number, and skip further ones: `1h 2m 3s`."""
        unit = ""
        while self.at + 1 < len(self.tokens):
            token = self.tokens[self.at + 1]
            word = token.group().lower()
            if word not in _UNITS or self._is_name(self.at + 1):
                break
            unit = unit or word
            self.at += 1
        return unit

    def _is_name(self, index: int) -> bool:
        """Return True if the word there is the name of the next number: `loss 0.5 m 3`; a unit touches its number."""
        if self.tokens[index].start() == self.tokens[index - 1].end():
            return False
        following = self.tokens[index + 1 : index + 2]
        return bool(following) and (following[0].group() in ":=" or following[0].lastgroup == "number")

    def _is_enclosed(self, token: re.Match[str]) -> bool:
        before, after = self.text[: token.start()].rstrip()[-1:], self.text[token.end() :].lstrip()[:1]
        return (before in "([" and after in ")]") and bool(before and after)
