"""Unsloth's two banners, and the sums that its notebooks print at the end.

Its notebooks divide by 1024³ and print "GB"; the unit given here is GiB. Source: unsloth/models/llama.py,
unsloth/models/_utils.py, the notebooks of unslothai/notebooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.domain.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.logtext.numbers import NUMBER, to_number
from touchline.logtext.reader import DocumentReader, LogReader, Row

_FIGURES: tuple[tuple[re.Pattern[str], ObservationName, str], ...] = (
    (re.compile(r"Num examples = ([\d,]+)"), "train_examples", "rows"),
    (re.compile(r"Num Epochs = ([\d,]+)"), "epochs", "epochs"),
    (re.compile(r"Total steps = ([\d,]+)"), "steps_total", "steps"),
    (re.compile(r"Batch size per device = ([\d,]+)"), "micro_batch_size", "1"),
    (re.compile(r"Gradient [Aa]ccumulation steps = ([\d,]+)"), "gradient_accumulation_steps", "1"),
    (re.compile(r"Total batch size (?:\([^)]*\) )?= ([\d,]+)"), "global_batch_size", "1"),
    (re.compile(r"Num GPUs(?: used)? = (\d+)"), "gpus", "1"),
    (re.compile(r"Data Parallel GPUs = (\d+)"), "gpus", "1"),
    (re.compile(r"Number of trainable parameters = ([\d,]+)"), "trainable_parameters", "parameters"),
    (re.compile(r"Trainable parameters = ([\d,]+)(?:/| of |$)"), "trainable_parameters", "parameters"),
    (re.compile(r"Trainable parameters = [\d,]+(?:/| of )([\d,]+)"), "total_parameters", "parameters"),
)
_LOGO = re.compile(r"==\(\(=+\)\)==|\\\\ +/\||[O0]\^[O0]/ \\_/ \\|\\ +/ |\"-____-\"")
_GPU = re.compile(rf"GPU(?: =|:) (.{{2,80}}?)\. (?:Num GPUs = \d+\. )?Max memory(?: =|:) ({NUMBER}) GB")
_BEFORE = re.compile(rf"^\s*({NUMBER}) GB of memory reserved\.")
_PEAK = re.compile(rf"Peak reserved memory = ({NUMBER}) GB")
_SECONDS = re.compile(rf"({NUMBER}) seconds used for training")
_VERSIONS = re.compile(r"(Unsloth|Pytorch|Torch|Transformers|CUDA Toolkit)[: =]+(\d[\w.+]*)", re.IGNORECASE)


class UnslothLines:
    """Reads one file's lines of Unsloth."""

    words: ClassVar[frozenset[str]] = frozenset(
        {"unsloth", "num", "batch", "trainable", "reserved", "seconds", "gpu", "pytorch", "torch", "parallel"}
    )

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of one line."""
        if "Unsloth" in text and (_LOGO.search(text) or text.lstrip("🦥 ").startswith("Unsloth")):
            yield Observation(name="trainer", value="unsloth", line=number)
            if "free finetuning" in text:
                yield Sign(kind=SignKind.START, line=number, text=text[:300])
        if _LOGO.search(text):
            yield from self._banner(text, number)
        yield from self._sums(text, number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Nothing: its rows are the Trainer's."""
        del row, text, number
        return iter(())

    @staticmethod
    def _banner(text: str, number: int) -> Iterator[Event]:
        for pattern, name, unit in _FIGURES:
            if match := pattern.search(text):
                yield Observation(name=name, value=int(match.group(1).replace(",", "")), line=number, unit=unit)
        for library, version in _VERSIONS.findall(text):
            known = {"pytorch": "torch", "cuda toolkit": "cuda"}.get(library.lower(), library.lower())
            yield Observation(name="version", value=f"{known}={version.rstrip('.')}", line=number)

    @staticmethod
    def _sums(text: str, number: int) -> Iterator[Event]:
        if match := _GPU.search(text):
            yield Observation(name="gpu", value=match.group(1).strip(), line=number)
            yield _gib("gpu_memory_total", match.group(2), number)
        if match := _BEFORE.match(text):
            yield Observation(
                name="memory_before_training",
                value=to_number(match.group(1)) or 0.0,
                line=number,
                unit="GiB",
                phase="after_init",
                kind="reserved",
            )
        if match := _PEAK.search(text):
            yield Observation(
                name="peak_memory",
                value=to_number(match.group(1)) or 0.0,
                line=number,
                unit="GiB",
                phase="step",
                kind="reserved",
                aggregation="peak",
            )
        if match := _SECONDS.search(text):
            yield Observation(
                name="train_seconds",
                value=to_number(match.group(1)) or 0.0,
                line=number,
                unit="s",
                inside=("evaluation", "saving"),
            )
            yield Sign(kind=SignKind.TRAINED, line=number, text=text[:300])


def _gib(name: ObservationName, digits: str, number: int) -> Observation:
    return Observation(name=name, value=to_number(digits) or 0.0, line=number, unit="GiB")


READERS: tuple[type[LogReader], ...] = (UnslothLines,)
DOCUMENTS: tuple[DocumentReader, ...] = ()
