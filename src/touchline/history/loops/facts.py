"""Facts that people print from their scripts: `Batch size: 4`, `Total steps: 500`, `16,266 training examples`.

Each is a guess that gives way to what a trainer says of itself. A line must begin with a capital
or be several words, and hold exactly the words below, a colon and one value: dumped configurations do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import SIZES, EventEmitter, to_sign
from touchline.backends.logtext.numbers import NUMBER, to_number, to_seconds
from touchline.backends.logtext.prefixes import strip_decoration
from touchline.backends.logtext.settings import is_model_name
from touchline.core.observation import Event, Observation, ObservationName, SignKind
from touchline.core.quantity import MemoryKind
from touchline.history.loops.fact_names import FACTS_BY_NAME

_LENGTH_LIMIT = 240
_LINE = re.compile(r"^\**(?P<name>[^\W\d_][^:=\n*]{0,60}?)\**\s*(?P<sign>[:=])\**\s*(?P<value>\S.{0,200}?)\s*$")
_COUNT = re.compile(
    r"~?(?P<count>\d{1,3}(?:[,_]\d{3})+|\d+)(?:\.0+)?(?P<unit>\s*(?:samples|examples|rows|steps|epochs"
    r"|tokens|gpus?|sequences|iterations))?"
    r"(?:\s*\([^()]{0,80}\)|\s*[,|/(].{0,80})?\s*\.?",
    re.IGNORECASE,
)
_LAX = re.compile(r"\s*[,|/].*|\s*\(.*\)\s*")

_LIMITS: dict[ObservationName, float] = {"epochs": 1e5, "gpus": 1e5, "lora_rank": 1e5, "micro_batch_size": 1e6}
_BANNERS = frozenset(
    {
        *("gradient accumulation steps", "num epochs", "number of trainable parameters", "num examples"),
        *("total batch size", "batch size per device", "total steps", "trainable parameters"),
        *("total optimization steps", "training set size"),
    }
)
"""With an equals sign they are the Hugging Face Trainer's, or those of a trainer on top of it."""
_RATE = re.compile(r"(?:peak |base |max |initial )?learning rate|lr", re.IGNORECASE)
_MODEL = re.compile(
    r"(?:base |student |pretrained |pre-trained )?model(?: name| id| path)?|(?:loading|using) (?:base )?model"
    r"|base model name|model name or path",
    re.IGNORECASE,
)
_MODEL_ID = re.compile(
    r"[`'\"]?(?P<id>[\w.~-]*(?:/[\w.~-]+)+|[A-Za-z][\w.]*(?:-[\w.]+)+|gpt2|distilgpt2)[`'\"]?(?:\s*\(.*\))?/?"
)
_LOSS = re.compile(
    r"(?:(?P<final>final|last) )?(?P<split>train(?:ing)?|eval(?:uation)?|val(?:id(?:ation)?)?)? ?loss", re.IGNORECASE
)
_TIME = re.compile(
    r"(?:total )?(?:train(?:ing)?|fine-?tuning) (?:time|duration|runtime)(?: taken)?(?: \((?P<unit>s"
    r"|sec|seconds|min|minutes|h|hours)\))?|total time (?:for )?training",
    re.IGNORECASE,
)
_TOOK = re.compile(
    r"^(?:(?:model |lora |total )?(?:training|fine-?tuning) (?:took|completed in|complete in"
    r"|finished in|done in|time was|time is"
    r"|completed successfully in)|(?:trained|fine-?tuned) in|completed training in|finished training in)\s*:?\s*"
    r"(?P<time>\d.*?)\s*[.!]*$",
    re.IGNORECASE,
)
_PEAK_WORDS = frozenset(
    {
        *("peak", "max", "maximum", "highest", "gpu", "cuda", "vram", "memory"),
        *("mem", "usage", "used", "use", "consumption", "footprint", "allocated", "allocation"),
        *("alloc", "reserved", "reservation", "training", "train", "during", "while", "final"),
        *("overall", "total", "device", "torch", "pytorch", "process", "of", "the"),
        *("in", "on", "for", "gb", "gib", "mb", "mib", "rank"),
        *("step", "global", "was", "is"),
    }
)
_PACKINGS_OWN = frozenset({"usage", "use", "used", "allocated", "allocation", "reserved"})
"""Names behind `Peak GPU memory` that have a reader of their own."""
_PEAK_SENTENCE = re.compile(
    rf"(?P<name>(?:[A-Za-z]+[ _/]){{1,6}}[A-Za-z]+)(?: ?\([^()]{{1,20}}\))?\s*(?::|=|is|was)?\s*(?P<size>{NUMBER})\s?"
    r"(?P<unit>GiB|GB|MiB|MB|G|M)\b",
    re.IGNORECASE,
)
_PEAK_NAME_UNIT = re.compile(r"[(\[_ ](?P<unit>GiB|GB|MiB|MB)[)\]]?$", re.IGNORECASE)
_RESERVED_TOO = re.compile(
    rf"^[\s,;|]*(?:peak |max )?reserved\s*[:=]?\s*(?P<size>{NUMBER})\s?(?P<unit>GiB|GB|MiB|MB)\b", re.IGNORECASE
)
_STEP_TIME = re.compile(
    r"(?:(?:average|avg\.?|mean|median) )?(?:step time|time per step|time/step|seconds per step|step duration)"
)
_STEP_TIME_VALUE = re.compile(
    rf"(?P<number>{NUMBER})\s?(?P<unit>s|sec|secs|seconds|ms|milliseconds)(?:/step| per step)?\.?"
)
_THROUGHPUT = re.compile(
    r"(?:(?:average|avg\.?|mean|training|overall|final) ){0,2}"
    r"(?:throughput|training speed|tokens per second|tokens/s(?:ec)?|tok/s|samples per second|samples/s(?:ec)?"
    r"|examples/s(?:ec)?)"
)
_THROUGHPUT_VALUE = re.compile(
    rf"(?P<number>{NUMBER})\s?(?P<unit>(?:tokens?|toks?|samples?|examples?)(?:/| per )(?:s|sec|second))?\.?"
)
_PRODUCT = re.compile(
    r"(?P<first>\d+)(?: ?\([^()]{1,40}\)| per \w+)? ?[x×*] ?(?P<second>\d+)(?: ?\([^()]{1,40}\)| \w+)?"
    r"(?: ?[x×*] ?(?P<third>\d+)(?: ?\([^()]{1,40}\)| \w+)?)? ?= ?(?P<whole>\d[\d,]*)\b.*"
)
"""`1 x 32 = 32 (effective)`"""
_OF_ALL = re.compile(r"\bof ([\d,]{4,})\b")
_LEADS = re.compile(
    r"^(?:calculated|computed|estimated|planned|resolved|final|using|setting|set|running for|training for) +"
)
_SIZE = re.compile(rf"(?P<size>{NUMBER})\s*(?P<unit>GB|GiB|MiB|MB)\b(?:\s*(?:/|of|\().{{0,60}})?", re.IGNORECASE)
_LORA = re.compile(
    r"^LoRA(?: config(?:uration)?| settings| parameters| params)?\s*[:(]?\s*(?:rank"
    r"|r)\s*(?:\(r\))?\s*[=:]?\s*(?P<rank>\d{1,4})\s*[,|/; ]+\s*"
    r"(?:lora_)?(?:alpha|α|a)\s*[=:]?\s*(?P<alpha>\d{1,5})\b(?:[\s,|/;)].{0,160})?$",
    re.IGNORECASE,
)
_ON_ROWS = re.compile(
    r"^(?:fine-?tuning|training)(?: (?:with|using) [\w+/-]{1,20})? on (?P<count>\d{1,3}(?:[,_]\d{3})+|\d+)"
    r" (?:training |train )?(?:samples|examples|rows|sequences|conversations|pairs|records)\b[.!… ]{0,6}$",
    re.IGNORECASE,
)
_BEGUN = re.compile(
    r"^(?:fine_?tuning|train(?:ing)?)_(?:start(?:ed|ing)?|begins?|begun)\s+(?:\w+=\S*\s+){0,12}?"
    r"(?:num_|n_)?(?:train_)?(?:samples|examples)=(?P<count>\d+)(?=\s|$)",
    re.IGNORECASE,
)
"""structlog's key-value lines: an event's name, then its facts."""
_ROWS = re.compile(
    r"^(?P<loaded>(?:loaded|using|found|prepared|created):? )?(?P<count>\d{1,3}(?:[,_]\d{3})+|\d+) (?:training|train"
    r"|fine-?tuning) (?:samples|examples|rows|sequences|conversations|pairs|records)"
    r"(?P<more>\s*(?:,|/|and|&|\||\+)\s*\d[\d,_]* (?:val|eval|test|dev).{0,60})?[.!]?$",
    re.IGNORECASE,
)
_SPLIT = re.compile(
    r"^(?:train(?:ing)?(?: set| size| samples| examples)?)\s*[:=]\s*(?P<count>\d{1,3}(?:[,_]\d{3})+"
    r"|\d+)(?: (?:samples|examples|rows))?"
    r"\s*[,|/;]\s*(?:val|valid|validation|eval|evaluation|test|dev)(?: set| size| samples| examples)?\s*[:=]\s*\d",
    re.IGNORECASE,
)
_TARGETS = re.compile(r"(?:lora )?target modules", re.IGNORECASE)
_GPU = re.compile(r"(?:gpu(?: name)?|device(?: name)?|using gpu|cuda device)", re.IGNORECASE)
_GPU_NAME = re.compile(
    r"(?P<name>(?:NVIDIA|Tesla|AMD|GeForce|Quadro|RTX|A100|H100|H200|L40S?|T4|V100"
    r"|MI\d{3})[\w /.+-]{0,50}?)\s*(?:[(|,;].*)?"
)
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
        """Start a file."""
        self._emitter = emitter
        self._of_epochs = False
        self._text = ""

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line."""
        if len(text) > _LENGTH_LIMIT or text.lstrip()[:1] in ("{", '"', "'", "<") or _OTHERS_OWN.search(text):
            return
        body, self._text = strip_decoration(text)[1].strip(), text
        sentence = self._sentence(body, number)
        if sentence is not None:
            yield from sentence
            return
        match = _LINE.match(body)
        if match is None:
            return
        name = " ".join(match.group("name").lower().split())
        if match.group("name")[:1].islower() and (" " not in name or match.group("sign") == "=") and not is_peak(name):
            return
        if match.group("sign") == "=" and (name in _BANNERS or ("_" in name and not is_peak(name))):
            return
        yield from self._named(name, match.group("value"), number)

    def _sentence(self, body: str, number: int) -> list[Event] | None:
        """Return facts that are not a name with a value; None if there is none."""
        emitter = self._emitter
        if (match := _LORA.match(body)) is not None:
            return [
                *emitter.once("lora_rank", float(match.group("rank")), number, certain=False),
                *emitter.once("lora_alpha", float(match.group("alpha")), number, certain=False),
            ]
        if (peaks := self._peaks(body, number)) is not None:
            return peaks
        rows = _ROWS.match(body)
        if rows is not None and rows.group("loaded") and not rows.group("more"):
            rows = None  # read with other lines on loading
        if (match := _ON_ROWS.match(body) or rows or _SPLIT.match(body) or _BEGUN.match(body)) is not None:
            count = to_number(match.group("count"))
            return list(emitter.once("train_examples", count or None, number, certain=False))
        if (match := _TOOK.match(body)) is not None:
            return list(self._seconds(match.group("time"), number, of_all=False))
        return None

    def _named(self, name: str, value: str, number: int) -> Iterator[Event]:
        measured = self._measurement(name, value, number)
        if measured is not None:
            yield from measured
            return
        plain = _LEADS.sub("", name).replace("_", " ")
        fact = FACTS_BY_NAME.get(name) or FACTS_BY_NAME.get(plain)
        if fact in ("micro_batch_size", "global_batch_size") and (product := _PRODUCT.fullmatch(value)) is not None:
            yield from self._product(product, number)
        elif fact is not None:
            yield from self._count(fact, value, number)
        elif _RATE.fullmatch(name):
            rate = to_number(_LAX.sub("", value))
            if rate and 0 < rate < 1 and not self._emitter.has_trained:
                yield from self._emitter.once("learning_rate", rate, number, certain=False)
        elif _MODEL.fullmatch(name):
            found = _MODEL_ID.fullmatch(value.rstrip("."))
            if found is not None and is_model_name(found.group("id")):
                yield from self._emitter.once("model", found.group("id"), number, certain=False)
        elif (match := _TIME.fullmatch(name)) is not None:
            of_all = "total" in name
            yield from self._seconds(f"{value} {match.group('unit') or ''}", number, of_all=of_all)
        elif _TARGETS.fullmatch(name):
            modules = re.findall(r"[A-Za-z_]\w*", value)
            if 0 < len(modules) <= 24 and re.fullmatch(r"[\[({]?[\w'\", ]+[\])}]?", value):
                yield from self._emitter.once("target_modules", ",".join(modules), number, certain=False)
        elif _GPU.fullmatch(name):
            gpu = _GPU_NAME.fullmatch(value)
            if gpu is not None:
                yield from self._emitter.once("gpu", gpu.group("name").strip(), number, certain=False)
        elif (match := _LOSS.fullmatch(name)) is not None:
            yield from self._loss(match, value, number)

    def _count(self, fact: ObservationName, value: str, number: int) -> Iterator[Event]:
        match = _COUNT.fullmatch(value)
        count = to_number(match.group("count")) if match is not None else None
        if count is None and fact in ("trainable_parameters", "total_parameters"):
            scaled = re.fullmatch(rf"({NUMBER})\s?([KMB])(?:\s*[(|/].*)?", value)
            count = to_number("".join(scaled.groups())) if scaled is not None else None
            count = round(count) if count else None
        elif match is not None and fact in ("trainable_parameters", "total_parameters") and value.startswith("0"):
            return
        if count and 0 < count <= _LIMITS.get(fact, 1e15):
            yield from self._emitter.once(fact, count, number, certain=False)

        if fact == "trainable_parameters" and (of_all := _OF_ALL.search(value)) is not None:
            whole = to_number(of_all.group(1))
            yield from self._emitter.once("total_parameters", whole, number, certain=False)

    def _product(self, match: re.Match[str], number: int) -> Iterator[Event]:
        """Yield a batch size as the product of its factors; the last of three is taken for the number of GPUs."""
        factors = [float(each) for each in match.group("first", "second", "third") if each is not None]
        whole = to_number(match.group("whole"))
        if whole is None or math.prod(factors) != whole:
            return
        yield from self._emitter.once("global_batch_size", whole, number, certain=False)
        yield from self._emitter.once("micro_batch_size", factors[0], number, certain=False)
        counts_devices = re.search(r"gpu|device|node|rank", match.group()[: match.start("whole")], re.IGNORECASE)
        if counts_devices is None and len(factors) == 2:
            yield from self._emitter.once("gradient_accumulation_steps", factors[1], number, certain=False)

    def _loss(self, match: re.Match[str], value: str, number: int) -> Iterator[Event]:
        loss = to_number(_LAX.sub("", value))
        if loss is None or abs(loss) > 1e6:
            return
        split = match.group("split")
        if split and not split.lower().startswith("tr"):
            yield from self._emitter.eval_loss(value if to_number(value) is not None else loss, number, certain=False)
        elif match.group("final"):
            yield Observation(name="loss", value=loss, line=number, unit="nats", aggregation="last", certain=False)

    def _peak(self, name: str, value: str, number: int) -> Iterator[Event]:
        """Yield a peak under its name; its unit follows the number, or stands in the name."""
        match = _SIZE.fullmatch(value)
        inside = _PEAK_NAME_UNIT.search(name)
        size = to_number(match.group("size")) if match is not None else to_number(_LAX.sub("", value))
        unit = match.group("unit") if match is not None else inside.group("unit") if inside is not None else None
        if size is not None and unit is not None:
            yield from self._memory(name, size, unit, number)

    def _measurement(self, name: str, value: str, number: int) -> Iterator[Event] | None:
        """Return the events of a speed's or a peak's name; None for any other."""
        if _STEP_TIME.fullmatch(name) is not None:
            return self._step_time(value, number)
        if _THROUGHPUT.fullmatch(name) is not None:
            return self._throughput(name, value, number)
        return self._peak(name, value, number) if is_peak(name) else None

    def _step_time(self, value: str, number: int) -> Iterator[Event]:
        match = _STEP_TIME_VALUE.fullmatch(value)
        seconds = to_number(match.group("number")) if match is not None else None
        if match is not None and seconds is not None:
            scale = 1e-3 if match.group("unit").lower().startswith(("ms", "milli")) else 1.0
            yield from self._emitter.measured(
                "step_seconds", seconds * scale, number, aggregation="mean", certain=False
            )

    def _throughput(self, name: str, value: str, number: int) -> Iterator[Event]:
        match = _THROUGHPUT_VALUE.fullmatch(value)
        rate = to_number(match.group("number")) if match is not None else None
        if match is None or rate is None:
            return
        unit = (match.group("unit") or name).lower()
        if unit.startswith("tok"):
            yield from self._emitter.measured(
                "tokens_per_second", rate, number, aggregation="mean", token_unit="padded", certain=False
            )
        elif unit.startswith(("sample", "example")):
            yield from self._emitter.measured(
                "train_samples_per_second", rate, number, aggregation="mean", certain=False
            )

    def _memory(self, name: str, size: float, unit: str, number: int) -> Iterator[Event]:
        scale, unit = SIZES[unit.lower()]
        which: MemoryKind = "reserved" if "reserv" in name else "allocated"
        yield from self._emitter.memory(size * scale, number, unit, which, certain=False)

    def _peaks(self, body: str, number: int) -> list[Event] | None:
        """Return the peaks of `peak memory allocated: 10184 MiB reserved: 10200 MiB`; None if there is none."""
        match = _PEAK_SENTENCE.match(body)
        size = to_number(match.group("size")) if match is not None else None
        if (
            match is None
            or size is None
            or not is_peak(match.group("name").lower().replace("_", " ").replace("/", " "))
        ):
            return None
        events = list(self._memory(match.group("name").lower(), size, match.group("unit"), number))
        more = _RESERVED_TOO.match(body[match.end() :])
        reserved = to_number(more.group("size")) if more is not None else None
        if more is not None and reserved is not None:
            events += self._memory("reserved", reserved, more.group("unit"), number)
        return events

    def _seconds(self, value: str, number: int, *, of_all: bool) -> Iterator[Event]:
        """Yield the duration of the training; a loop may print it after each epoch."""
        seconds = duration(value)
        if not seconds:
            return
        if not of_all and self._emitter.epoch is not None:
            begun, planned = self._emitter.epoch
            self._of_epochs = self._of_epochs or (planned > 1 and begun + 1 < planned)
            if self._of_epochs:
                return
        yield Observation(name="train_seconds", value=seconds, line=number, unit="s", certain=False)
        if self._emitter.has_trained:
            yield to_sign(SignKind.TRAINED, self._text, number)


def is_peak(name: str) -> bool:
    """Return True if a name, in lower case, is that of a peak of the GPU's memory and of nothing else."""
    words = set(re.findall(r"[a-z]+", name))
    if name.startswith("peak gpu memory") and words - {"peak", "gpu", "memory"} <= _PACKINGS_OWN:
        return False
    return (
        bool(words & {"peak", "max", "maximum", "highest"})
        and bool(words & {"memory", "mem", "vram", "allocated", "reserved"})
        and words <= _PEAK_WORDS
    )


def duration(text: str) -> float | None:
    """Return the seconds of `1234.5 seconds`, `12.3 minutes`, `2h 13m 5s`, `0:12:34.5`; None for other text."""
    text = text.strip().rstrip(".!")
    without_remark = re.sub(r"\s*[(=~].*$", "", text)
    if (clock := to_seconds(without_remark)) is not None:
        return clock
    parts = list(_DURATIONS.finditer(without_remark))
    between = _DURATIONS.sub("", without_remark)
    if not parts or re.sub(r"[\s,:]|and", "", between):
        return None
    total = 0.0
    for part in parts:
        value, unit = float(part.group("number").replace(",", ".")), part.group("unit").lower()
        total += value * _SECONDS[unit[0]]
    return total
