"""Grammar of a loop's lines, and facts that scripts print: `Batch size: 4`, `16,266 training examples`.

Each fact is a guess that gives way to what a trainer says of itself. A line must begin with a capital or be several
words, and hold exactly a known name, a colon and one value: dumped configurations do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from touchline.backends.logtext.events import SIZES, EventEmitter, to_sign
from touchline.backends.logtext.parts import NUMBER, strip_decoration, to_number, to_seconds
from touchline.backends.logtext.vocabulary import Concept, Meaning, Split, meaning_of, words_of
from touchline.core.observation import Event, Observation, ObservationName, SignKind

_LONGEST_ROW = 600
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
_COUNT_IN_PARENTHESES = re.compile(r"\s*\d+\s*/\s*\d+\s*|.*[^\W\d_]\s+[\d.].*")
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
    if len(rest) > _LONGEST_ROW:
        return None
    text = _REMARK.sub(_without_remark, rest)
    return _items(text, None) or _by_fields(text)


def _without_remark(match: re.Match[str]) -> str:
    """Return what stays of words in parentheses: a count, and a word about the name before it."""
    inside, before = match["inside"], match["before"] or ""
    if _COUNT_IN_PARENTHESES.fullmatch(inside):
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


_LENGTH_LIMIT = 240
_NAMES: dict[ObservationName, str] = {
    "micro_batch_size": (
        "batch size|per-device batch size|per device batch size|per device batch|per device train batch size"
        "|micro batch size|train batch size|batch size per device"
    ),
    "gradient_accumulation_steps": (
        "gradient accumulation|gradient accumulation steps|grad accumulation steps|grad accum steps|accumulation steps"
        "|grad accum|accum"
    ),
    "global_batch_size": "effective batch size|global batch size|total batch size|effective batch",
    "epochs": "epochs|num epochs|number of epochs|total epochs|training epochs|max epochs",
    "steps_total": (
        "total steps|max steps|total training steps|total train steps|total optimization steps|num training steps"
        "|number of training steps|training steps|max iterations|total iterations"
    ),
    "train_examples": (
        "train samples|training samples|train examples|training examples|number of training samples"
        "|number of training examples|train dataset size|training dataset size|train size|training set size"
    ),
    "learning_rate": "learning rate|lr",
    "lora_rank": "lora rank|lora r",
    "lora_alpha": "lora alpha",
    "max_seq_len": "max seq length|max sequence length|max seq len|max length|sequence length|context length",
    "gpus": "number of gpus|num gpus|gpus|world size",
    "trainable_parameters": "trainable parameters|trainable params|number of trainable parameters",
    "total_parameters": "total parameters|total params|number of parameters|model parameters",
}
_FACTS: dict[str, ObservationName] = {name: fact for fact, names in _NAMES.items() for name in names.split("|")}
_PAIR = re.compile(r"(?<![\w./-])(?P<name>[a-z_]+)[=:] ?(?P<value>[1-9]\d{0,6})(?=[\s,;|)]|$)")
"""`per_device_batch=2 grad_accum=2`: settings on one line, where one of them is the accumulation."""
_PAIRED = frozenset(
    {"micro_batch_size", "gradient_accumulation_steps", "global_batch_size", "gpus", "steps_total", "epochs"}
)
WORDS: frozenset[str] = words_of(
    "accum accumulation alpha batch completed dataset epochs examples finished gpu gpus grad_accum grad_accum_steps"
    " gradient_accumulation_steps iterations length lora loss lr max_memory_allocated max_memory_reserved parameters"
    " params peak peak_gpu_memory peak_memory peak_memory_allocated peak_memory_reserved max maximum rank rate rows"
    " samples size steps time took train trainable tuned world"
)
"""Words of the lines that facts stand on."""

_LINE = re.compile(r"^\**(?P<name>[^\W\d_][^:=\n*]{0,60}?)\**\s*(?P<sign>[:=])\**\s*(?P<value>\S.{0,200}?)\s*$")
_COUNT = re.compile(
    rf"~?(?P<count>{NUMBER}(?:\s?[KMB]\b)?)(?:\s*(?:samples|examples|rows|steps|epochs|tokens|gpus?|sequences"
    r"|iterations))?(?:\s*[(,|/].*)?\s*\.?",
    re.IGNORECASE,
)
_TRAINERS_OWN = re.compile(r"[a-z]+(?: [a-z]+)* = ")
"""With an equals sign names are the Hugging Face Trainer's, or those of a trainer on top of it."""
_GPU_NAME = re.compile(r"(?P<name>(?:NVIDIA|Tesla|AMD|GeForce|RTX|[AHLTV]\d{1,3}S?\b)[\w /.+-]{0,50}?)\s*(?:[(|,;].*)?")
_LOSS = re.compile(r"(?:(?P<final>final|last) )?(?P<split>train(?:ing)?|eval(?:uation)?|val(?:id(?:ation)?)?)? ?loss")
_COUNTED = r"(?P<train_examples>\d{1,3}(?:[,_]\d{3})+|\d+)"
_SAMPLES = r"(?:samples|examples|rows|sequences|conversations|pairs|records)"
_SENTENCES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^LoRA\b[\w ]{0,16}[:(]?\s*(?:rank|r)\s*(?:\(r\))?\s*[=:]?\s*(?P<lora_rank>\d{1,4})\s*[,|/; ]+\s*"
        r"(?:lora_)?(?:alpha|α)\s*[=:]?\s*(?P<lora_alpha>\d{1,5})\b",
        rf"^(?:fine-?tuning|training)(?: (?:with|using) [\w+/-]{{1,20}})? on {_COUNTED} (?:training |train )?{_SAMPLES}"
        r"[.!… ]{0,6}$",
        rf"^(?:(?:loaded|using|found|prepared|created):? (?=.* (?:val|eval|test|dev)))?{_COUNTED} (?:training|train) "
        rf"{_SAMPLES}(?:\s*(?:,|/|and|&)\s*\d[\d,_]* (?:val|eval|test|dev).{{0,60}})?[.!]?$",
        r"^(?:fine_?tuning|train(?:ing)?)_(?:start(?:ed|ing)?|begins?)\s+(?:\w+=\S*\s+){0,12}?"
        rf"(?:train_)?(?:samples|examples)={_COUNTED}(?=\s|$)",
        rf"^train(?: set| size| samples)?\s*[:=]\s*{_COUNTED}\s*[,|/;]\s*(?:val|eval|test)\w*\s*[:=]\s*\d",
    )
)
_TOOK = re.compile(
    r"^(?:(?:model |total )?(?:training|fine-?tuning) (?:took|(?:complete[d]?|finished|done) in|time)"
    r"|(?:trained|fine-?tuned) in)(?: taken)?(?: \((?P<unit>s|sec|seconds|min|minutes|hours)\))?\s*:?\s*"
    r"(?P<time>\d.*?)\s*[.!]*$",
    re.IGNORECASE,
)
_PEAK = re.compile(
    rf"(?P<name>(?:[A-Za-z]+[ _/]){{1,6}}[A-Za-z]+)(?: ?\([^()]{{1,20}}\))?\s*(?::|=|is|was)?\s*(?P<size>{NUMBER})\s?"
    r"(?P<unit>GiB|GB|MiB|MB)\b",
    re.IGNORECASE,
)
_PEAK_WORDS = words_of(
    "peak max maximum highest gpu cuda vram memory mem usage used use allocated alloc reserved training train during"
    " final overall total device torch process of the in on rank step is was"
)
_PACKINGS_OWN = re.compile(
    r"peak gpu memory(?: (?:usage|use|used|allocated|allocation|reserved))?|peak reserved memory"
)
"""Names that have a reader of their own."""
_OTHERS_OWN = re.compile(r"%\||wandb:|trainable params: .* \|\| ")
"""Bars, and lines with readers of their own."""
_DURATIONS = re.compile(
    r"(?P<number>\d+(?:[.,]\d+)?)\s*(?P<unit>hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![^\W\d_])",
    re.IGNORECASE,
)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
"""Seconds of a unit, by its first letter."""


class FactReader:
    """Reader of one file's facts."""

    def __init__(self, emitter: EventEmitter) -> None:
        self._emitter = emitter
        self._of_epochs = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line."""
        if len(text) > _LENGTH_LIMIT or text.lstrip()[:1] in ("{", '"', "'", "<") or _OTHERS_OWN.search(text):
            return
        body = strip_decoration(text)[1].strip()
        for pattern in _SENTENCES:
            if (match := pattern.match(body)) is not None:
                for name, count in match.groupdict().items():
                    yield from self._emitter.once(name, to_number(count) or None, number, certain=False)  # type: ignore[arg-type]
                return
        facts = ((_FACTS.get(pair["name"].replace("_", " ")), pair["value"]) for pair in _PAIR.finditer(body))
        pairs = {name: float(value) for name, value in facts if name in _PAIRED}
        if len(pairs) > 1 and "gradient_accumulation_steps" in pairs:
            for name, value in pairs.items():
                # Launchers set the world size; everything else is named as a script likes.
                yield from self._emitter.once(name, value, number, certain=name == "gpus")
        elif (match := _PEAK.match(body)) is not None and is_peak(match["name"]):
            scale, unit = SIZES[match["unit"].lower()]
            kind = "reserved" if "reserv" in match["name"].lower() else "allocated"
            yield from self._emitter.memory(
                (to_number(match["size"]) or 0.0) * scale,
                number,
                unit,
                kind,  # type: ignore[arg-type]
                certain=False,
            )
        elif (match := _TOOK.match(body)) is not None:
            yield from self._took(f"{match['time']} {match['unit'] or ''}", text, number)
        elif (match := _LINE.match(body)) is not None and not _TRAINERS_OWN.match(body.lower()):
            name = " ".join(match["name"].lower().split())
            if not match["name"][0].islower() or (" " in name and match["sign"] == ":"):
                yield from self._named(name, match["value"], number)

    def _named(self, name: str, value: str, number: int) -> Iterator[Event]:
        once, fact = self._emitter.once, _FACTS.get(name)
        count = _COUNT.fullmatch(value)
        figure = to_number(count["count"].replace(" ", "")) if count is not None else None
        if fact == "learning_rate":
            if figure and 0 < figure < 1 and not self._emitter.has_trained:
                yield from once(fact, figure, number, certain=False)
        elif fact is not None:
            if figure and figure >= 1 and abs(figure - round(figure)) < 1e-6:
                yield from once(fact, round(figure), number, certain=False)
        elif name in ("gpu", "gpu name", "using gpu"):
            gpu = _GPU_NAME.fullmatch(value)
            yield from once("gpu", gpu["name"].strip() if gpu is not None else None, number, certain=False)
        elif (match := _LOSS.fullmatch(name)) is not None and figure is not None:
            if match["split"] and not match["split"].startswith("tr"):
                yield from self._emitter.eval_loss(figure, number, certain=False)
            elif match["final"]:
                yield Observation(
                    name="loss", value=figure, line=number, unit="nats", aggregation="last", certain=False
                )

    def _took(self, value: str, text: str, number: int) -> Iterator[Event]:
        """Yield the duration of the training; a loop may print it after each epoch."""
        seconds = duration(value)
        if not seconds:
            return
        if self._emitter.epoch is not None:
            begun, planned = self._emitter.epoch
            self._of_epochs = self._of_epochs or (planned > 1 and begun + 1 < planned)
            if self._of_epochs:
                return
        yield Observation(name="train_seconds", value=seconds, line=number, unit="s", certain=False)
        if self._emitter.has_trained:
            yield to_sign(SignKind.TRAINED, text, number)


def is_peak(name: str) -> bool:
    """Return True if a name is that of a peak of the GPU's memory and of nothing else."""
    plain = re.sub(r"[_/]", " ", name.lower())
    words = set(plain.split())
    return (
        not _PACKINGS_OWN.fullmatch(plain)
        and not words.isdisjoint({"peak", "max", "maximum", "highest"})
        and not words.isdisjoint({"memory", "mem", "vram", "allocated", "reserved"})
        and words <= _PEAK_WORDS
    )


def duration(text: str) -> float | None:
    """Return the seconds of `1234.5 seconds`, `12.3 minutes`, `2h 13m 5s`, `0:12:34.5`; None for other text."""
    without_remark = re.sub(r"\s*[(=~].*$", "", text.strip().rstrip(".!"))
    if (clock := to_seconds(without_remark)) is not None:
        return clock
    parts = list(_DURATIONS.finditer(without_remark))
    if not parts or re.sub(r"[\s,:]|and", "", _DURATIONS.sub("", without_remark)):
        return None
    return sum(float(part["number"].replace(",", ".")) * _SECONDS[part["unit"][0].lower()] for part in parts)
