"""Facts that people print from their scripts: `Batch size: 4`, `Total steps: 500`, `16,266 training examples`.

Each is a guess that gives way to what a trainer says of itself. A line must begin with a capital or be several words,
and hold exactly a known name, a colon and one value: dumped configurations do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.events import SIZES, EventEmitter, to_sign
from touchline.backends.logtext.parts import NUMBER, strip_decoration, to_number, to_seconds
from touchline.backends.logtext.vocabulary import words_of
from touchline.core.observation import Event, Observation, ObservationName, SignKind

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
        """Start a file."""
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
