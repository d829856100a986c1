"""Unsloth's two banners, when a model is loaded and when a training begins, and the sums its notebooks print.

Figures that are printed as GB are bytes divided by 1024**3. Source: unsloth.models.llama and .vision (both banners, of
2023 to 2026), unslothai/notebooks and the notebooks of TRL (sums).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.logtext.events import (
    BarCount,
    LoggedTrainer,
    LogReader,
    Row,
    figure,
    observed,
    to_sign,
)
from touchline.backends.logtext.parts import to_number
from touchline.core.observation import Event, Observation, ObservationName, SignKind
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
    r"(?:/\|\s+(?:GPU: )?|^\s*GPU = )(?P<gpu>[^\s.].*?|)\. (?:Num GPUs = \d+\. )?"
    rf"Max memory(?::| =) (?P<gpu_memory_total>{_SIZE}) GB\b"
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
_FORMS = (
    ("Num examples", _EXAMPLES),
    ("Batch size per device", _BATCH),
    ("Total batch size", _TOTAL),
    ("-____-", _PARAMETERS),
    ("Max memory", _GPU),
)
"""Lines of the banners: a text of each, and the pattern whose groups are named like observations."""
_MOST = 1e15
_SUMS: tuple[tuple[ObservationName, re.Pattern[str], Phase, Aggregation], ...] = (
    ("memory_before_training", re.compile(rf"^\s*(?P<size>{_SIZE}) GB of memory reserved\.\s*$"), "after_init", "last"),
    ("peak_memory", re.compile(rf"^\s*Peak reserved memory = (?P<size>{_SIZE}) GB\.?\s*$"), "step", "peak"),
)
"""Lines that notebooks print before and after training. `... for training` is a difference, not a peak."""
_SECONDS = re.compile(rf"^\s*(?P<seconds>{_SIZE}) seconds used for training\.\s*$")
_ROUNDED = 1000
"""Its first long form gave all parameters in whole millions."""


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
        pattern = next((pattern for hint, pattern in _FORMS if hint in text), None)
        if pattern is not None:
            found = pattern.search(text)
            yield from self._counts({} if found is None else found.groupdict(), number)
        elif "O^O/" in text or "Xformers = " in text:
            yield from _versions(text, number)
        else:
            yield from _sums(text, number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Return no row: rows are the Trainer's."""
        del row, text, number
        return iter(())

    def _unsloth(self, text: str, number: int) -> Iterator[Event]:
        trains, loaded, patched = _TRAINS.search(text), _LOADED.search(text), _PATCHED.match(text)
        if trains is not None:
            self._gpus = int(trains["gpus"])
            yield to_sign(SignKind.START, text, number)
            yield Observation(name="trainer", value="unsloth", line=number)
            # Later versions tell those of one process here, and the processes three lines on.
            if self._gpus and not trains["used"]:
                yield observed("gpus", self._gpus, number)
        elif loaded is not None or patched is not None or _IMPORTED.match(text) is not None:
            yield Observation(name="trainer", value="unsloth", line=number)
            version = (loaded["version"] or loaded["release"]) if loaded else patched["version"] if patched else None
            if version:
                yield Observation(name="version", value=f"unsloth={version}", line=number)
            if loaded is not None:
                yield from _versions(text, number)

    def _counts(self, groups: dict[str, str | None], number: int) -> Iterator[Event]:
        part = to_number(groups.get("trainable_parameters"))
        if (gpu := (groups.pop("gpu", None) or "").strip()).strip("."):
            yield Observation(name="gpu", value=gpu, line=number)
        processes = int(groups.pop("world", None) or 0)
        for name, text in groups.items():
            count = to_number(text)
            if not count or not 0 < count < _MOST or (name == "total_parameters" and count < (part or 0)):
                continue
            unit = {"gpu_memory_total": "GiB"}.get(name, "1" if name.endswith("_parameters") else None)
            certain = name != "total_parameters" or count % _ROUNDED != 0
            yield observed(name, count, number, unit=unit, certain=certain)  # type: ignore[arg-type]
        if devices := processes * self._gpus:
            yield observed("gpus", devices, number)


def _versions(text: str, number: int) -> Iterator[Observation]:
    for found in _LIBRARIES.finditer(text):
        library = found["library"].lower().removesuffix(" version").replace("pytorch", "torch")
        yield Observation(name="version", value=f"{library}={found['version']}", line=number)


def _sums(text: str, number: int) -> Iterator[Event]:
    for name, pattern, phase, aggregation in _SUMS:
        if found := pattern.match(text):
            size = found["size"]
            more = {"phase": phase, "kind": "reserved", "aggregation": aggregation}
            yield from figure(name, size, number, unit="GiB", positive=True, **more)  # type: ignore[arg-type]
    if (found := _SECONDS.match(text)) and to_number(found["seconds"]):
        yield from figure("train_seconds", found["seconds"], number, inside=("evaluation", "saving"))
        # TRL's notebooks took these lines over, so they do not tell whether it is Unsloth.
        yield Observation(name="trainer", value="trl", line=number, certain=False)
        yield to_sign(SignKind.TRAINED, text, number)


READERS: tuple[type[LogReader], ...] = (UnslothLines,)
TRAINERS = (LoggedTrainer(name="unsloth", export_functions=r"unsloth_save\w*", precedence=3, bar=BarCount.RUN_STEPS),)
