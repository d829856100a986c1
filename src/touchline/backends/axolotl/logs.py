"""Axolotl's additions to the Trainer's output: its own log lines, and memory and token counts in the rows of losses.

Source: axolotl.logging_config (prefix), axolotl.train, axolotl.utils.bench (memory), axolotl.utils.trainer and
axolotl.utils.data.sft (steps, packing), axolotl.core.trainers.base (rows), axolotl.cli.config (the printed settings).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from statistics import fmean
from typing import ClassVar

from touchline.backends.axolotl.format import READ_KEYS, evidence, read_config
from touchline.backends.logtext.events import (
    AttributesOfMemory,
    BarCount,
    DocumentReader,
    LoggedTrainer,
    LogReader,
    Row,
    figure,
    observed,
    to_sign,
)
from touchline.backends.logtext.parts import to_number
from touchline.core.json_text import parse_json
from touchline.core.observation import Event, Observation, ObservationName, SignKind
from touchline.core.quantity import Aggregation, MemoryKind, Phase

_PREFIX = re.compile(
    r"\[(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\] \[(?P<logger>axolotl[\w.<>]*)(?::\d+)?\]"
    r"(?: \[PID:(?P<pid>\d+)\])?(?: \[RANK:(?P<rank>\d+)\])? ?(?P<message>.*)"
)
_USED = re.compile(
    r"(?:\S+ )?memory usage (?P<when>after model load|after adapters|while training): (?P<used>\d+\.\d+)GB"
    r"(?: \((?:\+(?P<cache>\d+\.\d+)GB cache)?)?",
    re.IGNORECASE,
)
"""Until 0.9: what is allocated at this moment, the cache's free part next to it; torch's bytes divided by 1024**3."""
_PEAK = re.compile(
    r"(?:Memory usage )?(?P<when>after model load|after adapters|while training):? (?P<active>\d+\.\d+)GB"
    r" \(\+(?P<allocated>\d+\.\d+)GB allocated(?:, \+(?P<reserved>\d+\.\d+)GB reserved)?\)"
)
"""Since 0.10: highest values since the last such line."""
_STEPS = re.compile(
    r"(?:Maximum number of steps set at (?P<most>\d[\d_]*)"
    r"|(?:total_num_tokens: [\d_]+, )?total_num_steps: (?P<estimated>\d[\d_]*)(?:\.0)?)\s*$"
)
_EFFICIENCIES = re.compile(r"sample_packing_eff_est across ranks: \[(?P<shares>.*)\]\s*$")
_EFFICIENCY = re.compile(r"sample_packing_eff_est: (?P<share>[01]\.\d+)\s*$")
_SHARE = re.compile(r"(?<![\w.])[01]\.\d+(?:e-\d+)?")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\b")
_WORDS = re.compile(
    r"Converting modules to torch\.(?P<dtype>\w+)\s*$|found linear modules: \[(?P<target_modules>[^\]]*)\]\s*$"
)
_SIGNS: tuple[tuple[str, SignKind], ...] = (
    ("Using Auto-resume functionality to start with checkpoint", SignKind.RESUMED),
    ("Resuming from checkpoint", SignKind.RESUMED),
    ("Training completed! Saving ", SignKind.TRAINED),
    ("Training Completed!!! Saving ", SignKind.TRAINED),
    ("Running evaluation step...", SignKind.EVALUATING),
    ("Saving model checkpoint to ", SignKind.SAVING),
    ("Model successfully saved to ", SignKind.SAVED),
    ("Running merge of LoRA with base model...", SignKind.EXPORTING),
)
_SETTING = re.compile(r'  "(?P<key>\w+)": (?P<value>.+)')
_BLOCK_LINES = 800
"""A printed config has some two hundred lines."""
_ROW_MEMORY: dict[str, MemoryKind] = {
    **dict.fromkeys(("memory/max_allocated (GiB)", "memory/max_mem_allocated(gib)"), "allocated"),
    **dict.fromkeys(("memory/max_active (GiB)", "memory/max_mem_active(gib)"), "allocated"),
    **dict.fromkeys(("memory/device_reserved (GiB)", "memory/device_mem_reserved(gib)"), "reserved"),
}
"""Of what is allocated and what is active, which torch counts alike, the first that is there."""
_ROW_RATES = ("tokens/train_per_sec_per_gpu", "tokens_per_second_per_gpu")


class AxolotlLines:
    """axolotl's own lines; the Trainer's rows only for what axolotl puts into them."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("axolotl", "max_allocated", "max_active", "max_mem_allocated", "max_mem_active"),
            *("train_per_sec_per_gpu", "tokens_per_second_per_gpu"),
            # keys of a printed config; digits part words
            *(word for key in READ_KEYS for word in re.split(r"\d+", key) if len(word) > 1),
        }
    )

    def __init__(self) -> None:
        """Start with a new file."""
        self._processes: set[str] = set()
        self._block: dict[str, object] = {}
        self._block_lines: dict[str, int] = {}
        self._block_start = 0
        self._steps: Observation | None = None
        self._has_efficiency = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line."""
        found = _PREFIX.search(text) if "axolotl" in text else None
        if found is None:
            if self._block_start:
                self._collect(text, number)
            return
        yield from self._settings()
        message = found["message"].strip()
        if message == "config:":
            self._block_start = number
        events = list(self._message(message, found, text, number))
        process = f"{found['pid']}:{found['rank']}"
        # A sign may begin another segment, to which the rest then belongs.
        yield from events
        if events or process not in self._processes:
            yield Observation(name="trainer", value="axolotl", line=number)
        self._processes.add(process)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield memory, token rate and token counts of a row."""
        del text
        sizes: dict[MemoryKind, object] = {}
        for key, kind in _ROW_MEMORY.items():
            if key in row:
                sizes.setdefault(kind, row[key])
        rate = next((rate for key in _ROW_RATES if (rate := to_number(row.get(key)))), None)
        epoch = to_number(row.get("epoch"))
        phase: Phase = "eval" if any(key.startswith("eval_") for key in row) else "step"
        for kind, size in sizes.items():
            yield from _memory("peak_memory", size, number, phase, kind, "peak", epoch)
        # torchtune writes a rate of that name as well, in rows without the Trainer's own numbers.
        if not sizes and (rate is None or not {"loss", "grad_norm", "learning_rate"} <= row.keys()):
            return
        yield Observation(name="trainer", value="axolotl", line=number)
        # The closing row repeats a counter that has just been set to zero.
        if "train_runtime" not in row:
            yield from figure("tokens_per_second", rate, number, positive=True, epoch=epoch, token_unit="label")

    def _message(self, message: str, prefix: re.Match[str], text: str, number: int) -> Iterator[Event]:
        kind = next((kind for beginning, kind in _SIGNS if message.startswith(beginning)), None)
        if message == "Starting trainer...":
            if prefix["rank"] in (None, "0"):
                yield to_sign(SignKind.START, text, number)
                yield from () if self._steps is None else (self._steps,)
                self._steps = None
        elif kind is not None:
            steps = _CHECKPOINT.findall(message) if kind in (SignKind.SAVING, SignKind.RESUMED) else []
            yield to_sign(kind, text, number, int(steps[-1]) if steps else None)
        elif "GB" in message:
            yield from _memory_line(message, number)
        elif found := _STEPS.match(message):
            steps_total = observed(
                "steps_total", float(found["most"] or found["estimated"]), number, certain=bool(found["most"])
            )
            # An estimate is from lengths, evaluation data first: the last one counts; the Trainer's differs a bit.
            self._steps = None if found["most"] else steps_total
            yield from (steps_total,) if found["most"] else ()
        elif "sample_packing_eff_est" in message:
            # The samplers print it again for all data, evaluation data included.
            if "samplers" not in prefix["logger"]:
                yield from self._packing(message, number)
        elif message.startswith("gather_len_batches: "):
            yield Observation(name="packed", value="true", line=number)
        elif (found := _WORDS.match(message)) is not None:
            for name in ("dtype", "target_modules"):
                if word := ",".join(re.findall(r"[\w.]+", found[name] or "")):
                    yield Observation(name=name, value=word, line=number)

    def _packing(self, message: str, number: int) -> Iterator[Event]:
        """Read the non-padding share of the tokens. The second form is the first, rounded up to a hundredth."""
        if found := _EFFICIENCIES.match(message):
            shares = [float(share) for share in _SHARE.findall(found["shares"])]
            self._has_efficiency = bool(shares)
        elif (found := _EFFICIENCY.match(message)) and not self._has_efficiency:
            shares = [float(found["share"])]
        else:
            return
        yield Observation(name="packed", value="true", line=number)
        if shares and 0 < fmean(shares) <= 1:
            percent, several = fmean(shares) * 100, len(shares) > 1
            yield observed("packing_efficiency", percent, number, unit="%", aggregation="mean" if several else None)

    def _collect(self, text: str, number: int) -> None:
        """Collect a line of the printed config, which has no end marker."""
        if number - self._block_start > _BLOCK_LINES:
            self._block_start = 0
        elif (
            (found := _SETTING.fullmatch(text.rstrip()))
            and found["key"] in READ_KEYS
            and found["key"] not in self._block
        ):
            with suppress(ValueError):
                self._block[found["key"]] = parse_json(found["value"].removesuffix(","))
                self._block_lines[found["key"]] = number

    def _settings(self) -> Iterator[Event]:
        """Yield the settings of the printed config, once another line shows that it is complete."""
        values, lines = self._block, self._block_lines
        self._block, self._block_lines, self._block_start = {}, {}, 0
        if "base_model" in values:
            yield from evidence(values, lines)


def _memory_line(message: str, number: int) -> Iterator[Event]:
    found = _PEAK.match(message) or _USED.match(message)
    if found is None:
        return
    groups, is_peak = found.groupdict(), found.re is _PEAK
    # What is in use between two steps is less than the peak within one; the cache holds what the peak needed.
    used, cache = float(groups.get("used") or 0), float(groups.get("cache") or 0)
    sizes: tuple[tuple[MemoryKind, object], ...] = (
        ("allocated", groups.get("allocated") or used),
        ("reserved", groups.get("reserved") or (round(used + cache, 3) if cache else None)),
    )
    training = found["when"] == "while training"
    name: ObservationName = "peak_memory" if training else "memory_before_training"
    for kind, size in sizes:
        phase: Phase = "step" if training else "after_init"
        yield from _memory(name, size, number, phase, kind, "peak" if is_peak else "last")


def _memory(
    name: ObservationName,
    size: object,
    line: int,
    phase: Phase,
    kind: MemoryKind,
    aggregation: Aggregation,
    epoch: float | None = None,
) -> Iterator[Observation]:
    more = AttributesOfMemory(epoch=epoch, phase=phase, kind=kind, aggregation=aggregation)
    yield from figure(name, size, line, unit="GiB", positive=True, **more)


READERS: tuple[type[LogReader], ...] = (AxolotlLines,)
DOCUMENTS: tuple[DocumentReader, ...] = (read_config,)
TRAINERS = (LoggedTrainer(name="axolotl", precedence=4, bar=BarCount.RUN_STEPS),)
