"""Unsloth's two banners, when a model is loaded and when a training begins, and the sums its notebooks print.

Figures that are printed as GB are bytes divided by 1024**3. Source: unsloth.models.llama and .vision (both banners, of
2023 to 2026), unslothai/notebooks and the notebooks of TRL (sums).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.logtext.emitter import observed
from touchline.backends.logtext.numbers import to_number
from touchline.backends.logtext.reader import BarCount, DocumentReader, LoggedTrainer, LogReader, Row
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.core.quantity import Aggregation, Phase

_COUNT = r"\d{1,3}(?:,\d{3})+|\d+"
_SIZE = r"\d+(?:\.\d+)?"
_LOADED = re.compile(
    r"==\(\(=+\)\)==\s+Unsloth(?: (?P<version>20\d\d\.[\d.]*\d(?:\.\w+)?))?: Fast [\w .-]+ patching"
    r"(?: release (?P<release>20\d\d\.[\d.]*\d))?"
)
_TRAINS = re.compile(
    r"==\(\(=+\)\)==\s+Unsloth - \S+ faster free finetuning \| Num GPUs(?P<used> used)? = (?P<gpus>\d+)"
)
_PATCHED = re.compile(r"^\s*Unsloth (?P<version>20\d\d\.[\d.]*\d) patched \d+ layers with ")
_IMPORTED = re.compile(r"^\W*Unsloth: Will patch your computer to enable |^\W*Unsloth Zoo will now patch everything")
_GPU = re.compile(
    r"(?:/\|\s+(?:GPU: )?|^\s*GPU = )(?P<name>[^\s.].*?|)\. (?:Num GPUs = \d+\. )?"
    rf"Max memory(?::| =) (?P<size>{_SIZE}) GB\b"
)
_LIBRARIES = re.compile(
    r"(?P<library>Transformers|Pytorch(?: version)?|Torch|vLLM|Triton|Xformers)(?::| =) ?(?P<version>\d[\w.+]*\w)"
)
_EXAMPLES = re.compile(
    rf"(?:/\|\s+|^\s*)Num examples = (?P<train_examples>{_COUNT}) \| Num Epochs = (?P<epochs>{_COUNT})"
    rf"(?: \| Total steps = (?P<steps_total>{_COUNT}))?\s*$"
)
_BATCH = re.compile(
    rf"Batch size per device = (?P<micro_batch_size>{_COUNT}) \| "
    rf"Gradient [Aa]ccumulation steps = (?P<gradient_accumulation_steps>{_COUNT})\s*$"
)
_TOTAL = re.compile(
    rf"(?:Data Parallel GPUs = (?P<world>\d+) \| )?Total batch size(?: \([\d, x]+\))? = (?P<global_batch_size>{_COUNT})"
    rf"(?: \| Total steps = (?P<steps_total>{_COUNT}))?\s*$"
)
_PARAMETERS = re.compile(
    rf"\"-____-\"\s+(?:Number of trainable|Trainable) parameters = (?P<trainable_parameters>{_COUNT})"
    rf"(?:(?:/| of )(?P<total_parameters>{_COUNT}))?"
)
_UNITS: dict[ObservationName, str] = {
    "train_examples": "examples",
    "epochs": "epochs",
    "steps_total": "steps",
}
_BEFORE = re.compile(rf"^\s*(?P<size>{_SIZE}) GB of memory reserved\.\s*$")
_PEAK = re.compile(rf"^\s*Peak reserved memory = (?P<size>{_SIZE}) GB\.?\s*$")
_SECONDS = re.compile(rf"^\s*(?P<seconds>{_SIZE}) seconds used for training\.\s*$")
_ROUNDED = 1000
"""Its first long form gave all parameters in whole millions."""
_TEXT = 300


class UnslothLines:
    """Unsloth's lines; its rows are the Trainer's."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            "unsloth",
            # the other lines of the banners
            *("num", "max", "accumulation", "batch", "trainable", "pytorch", "torch", "xformers"),
            # sums
            *("reserved", "seconds"),
        }
    )

    def __init__(self) -> None:
        """Start with a new file."""
        self._gpus = 0

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line."""
        if "nsloth" in text:
            yield from self._unsloth(text, number)
        if " = " in text and "Num examples" in text:
            yield from _counts(_EXAMPLES, text, number)
        elif "Batch size per device" in text:
            yield from _counts(_BATCH, text, number)
        elif "Total batch size" in text:
            yield from self._total(text, number)
        elif "-____-" in text:
            yield from _parameters(text, number)
        elif "Max memory" in text:
            yield from _gpu(text, number)
        elif "O^O/" in text or "Xformers = " in text:
            yield from _versions(text, number)
        else:
            yield from _sums(text, number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Return no row: rows are the Trainer's."""
        del row, text, number
        return iter(())

    def _unsloth(self, text: str, number: int) -> Iterator[Event]:
        trains = _TRAINS.search(text)
        if trains is not None:
            self._gpus = int(trains["gpus"])
            yield Sign(kind=SignKind.START, line=number, text=text.strip()[:_TEXT])
            yield _trainer(number)
            # Later versions tell those of one process here, and the processes three lines on.
            if self._gpus > 0 and not trains["used"]:
                yield Observation(name="gpus", value=self._gpus, line=number)
            return
        loaded = _LOADED.search(text)
        patched = _PATCHED.match(text) if loaded is None else None
        if loaded is None and patched is None and _IMPORTED.match(text) is None:
            return
        yield _trainer(number)
        version = (loaded["version"] or loaded["release"]) if loaded else patched["version"] if patched else None
        if version:
            yield Observation(name="version", value=f"unsloth={version}", line=number)
        if loaded is not None:
            yield from _versions(text, number)

    def _total(self, text: str, number: int) -> Iterator[Event]:
        found = _TOTAL.search(text)
        if found is None:
            return
        yield from _counts(_TOTAL, text, number)
        world = int(found["world"] or 0)
        if world > 0 and self._gpus > 0:
            yield Observation(name="gpus", value=world * self._gpus, line=number)


def _trainer(number: int) -> Observation:
    return Observation(name="trainer", value="unsloth", line=number)


def _counts(pattern: re.Pattern[str], text: str, number: int) -> Iterator[Observation]:
    """Read the counts of a banner's line. Its groups are named after them."""
    found = pattern.search(text)
    if found is None:
        return
    names: tuple[ObservationName, ...] = (
        "train_examples",
        "epochs",
        "steps_total",
        "micro_batch_size",
        "gradient_accumulation_steps",
        "global_batch_size",
    )
    groups = found.groupdict()
    for name in names:
        count = to_number(groups.get(name))
        if count is not None and 0 < count < 1e15:
            yield Observation(name=name, value=count, line=number, unit=_UNITS.get(name, "1"))


def _parameters(text: str, number: int) -> Iterator[Observation]:
    found = _PARAMETERS.search(text)
    part = to_number(found["trainable_parameters"]) if found is not None else None
    if found is None or not part:
        return
    yield Observation(name="trainable_parameters", value=part, line=number)
    whole = to_number(found["total_parameters"])
    if whole is not None and whole >= part:
        certain = whole % _ROUNDED != 0
        yield Observation(name="total_parameters", value=whole, line=number, certain=certain)


def _gpu(text: str, number: int) -> Iterator[Observation]:
    found = _GPU.search(text)
    if found is None:
        return
    if found["name"].strip(" ."):
        yield Observation(name="gpu", value=found["name"].strip(), line=number)
    size = to_number(found["size"])
    if size:
        yield Observation(name="gpu_memory_total", value=size, line=number, unit="GiB")


def _versions(text: str, number: int) -> Iterator[Observation]:
    for found in _LIBRARIES.finditer(text):
        library = found["library"].lower().removesuffix(" version").replace("pytorch", "torch")
        yield Observation(name="version", value=f"{library}={found['version']}", line=number)


def _sums(text: str, number: int) -> Iterator[Event]:
    """Read the lines that notebooks print before and after training. `... for training` is a difference, not a peak."""
    if found := _BEFORE.match(text):
        yield from _memory("memory_before_training", found["size"], number, "after_init", "last")
    elif found := _PEAK.match(text):
        yield from _memory("peak_memory", found["size"], number, "step", "peak")
    elif found := _SECONDS.match(text):
        seconds = to_number(found["seconds"])
        if seconds:
            yield observed("train_seconds", seconds, number, inside=("evaluation", "saving"))
            # TRL's notebooks took these lines over, so they do not tell whether it is Unsloth.
            yield Observation(name="trainer", value="trl", line=number, certain=False)
            yield Sign(kind=SignKind.TRAINED, line=number, text=text.strip()[:_TEXT])


def _memory(
    name: ObservationName, written: str, number: int, phase: Phase, aggregation: Aggregation
) -> Iterator[Observation]:
    size = to_number(written)
    if size:
        yield Observation(
            name=name, value=size, line=number, unit="GiB", phase=phase, kind="reserved", aggregation=aggregation
        )


READERS: tuple[type[LogReader], ...] = (UnslothLines,)
"""Readers of lines."""
DOCUMENTS: tuple[DocumentReader, ...] = ()
"""Readers of state files and configs: none of its own."""
TRAINERS = (LoggedTrainer(name="unsloth", export_functions=r"unsloth_save\w*", precedence=3, bar=BarCount.RUN_STEPS),)
"""Names in readings."""
