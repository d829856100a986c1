"""Axolotl's additions to the Trainer's output: its own log lines, and memory and token counts in the rows of losses.

Source: axolotl.logging_config (prefix), axolotl.train, axolotl.utils.bench (memory), axolotl.utils.trainer and
axolotl.utils.data.sft (steps, packing), axolotl.core.trainers.base (rows), axolotl.cli.config (the printed settings).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import fmean
from typing import ClassVar

from touchline.backends.axolotl.config import KEYS, read_config, settings
from touchline.backends.logtext.emitter import observed
from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import BarCount, DocumentReader, LoggedTrainer, LogReader, Row
from touchline.core.json_text import parse_json
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.core.quantity import Aggregation, MemoryKind, Phase, TokenUnit

_PREFIX = re.compile(
    r"\[(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\] \[(?P<logger>axolotl[\w.<>]*)(?::\d+)?\]"
    r"(?: \[PID:(?P<pid>\d+)\])?(?: \[RANK:(?P<rank>\d+)\])? ?(?P<message>.*)"
)
_USED = re.compile(
    r"(?:\S+ )?memory usage (?P<when>after model load|after adapters|while training): (?P<used>\d+\.\d+)GB"
    r"(?: \((?:\+(?P<cache>\d+\.\d+)GB cache)?)?",
    re.IGNORECASE,
)
"""Until 0.9: what is allocated at this moment, the cache's free part beside it; torch's bytes divided by 1024**3."""
_PEAK = re.compile(
    r"(?:Memory usage )?(?P<when>after model load|after adapters|while training):? (?P<active>\d+\.\d+)GB"
    r" \(\+(?P<allocated>\d+\.\d+)GB allocated(?:, \+(?P<reserved>\d+\.\d+)GB reserved)?\)"
)
"""Since 0.10: highest values since the last such line."""
_MOST_STEPS = re.compile(r"Maximum number of steps set at (?P<steps>\d[\d_]*)\s*$")
_ESTIMATED_STEPS = re.compile(r"(?:total_num_tokens: [\d_]+, )?total_num_steps: (?P<steps>\d[\d_]*)(?:\.0)?\s*$")
_EFFICIENCIES = re.compile(r"sample_packing_eff_est across ranks: \[(?P<shares>.*)\]\s*$")
_EFFICIENCY = re.compile(r"sample_packing_eff_est: (?P<share>[01]\.\d+)\s*$")
_SHARE = re.compile(r"(?<![\w.])[01]\.\d+(?:e-\d+)?")
_RESUMED = re.compile(r"(?:Using Auto-resume functionality to start with|Resuming from) checkpoint\b.*")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\b")
_DTYPE = re.compile(r"Converting modules to torch\.(?P<dtype>\w+)\s*$")
_MODULES = re.compile(r"found linear modules: \[(?P<modules>[^\]]*)\]\s*$")
_SIGNS: tuple[tuple[str, SignKind], ...] = (
    ("Training completed! Saving ", SignKind.TRAINED),
    ("Training Completed!!! Saving ", SignKind.TRAINED),
    ("Running evaluation step...", SignKind.EVALUATING),
    ("Saving model checkpoint to ", SignKind.SAVING),
    ("Model successfully saved to ", SignKind.SAVED),
    ("Running merge of LoRA with base model...", SignKind.EXPORTING),
)
_SAYINGS: tuple[tuple[str, ObservationName, str], ...] = (
    ("gather_len_batches: ", "packed", "true"),
    ("bf16 support detected, enabling for this configuration.", "dtype", "bfloat16"),
    ("Initializing LoRA weights using dora.", "method", "dora"),
)
_SETTING = re.compile(r'  "(?P<key>\w+)": (?P<value>.+)')
_BLOCK_LINES = 800
"""A printed config has some two hundred lines."""
_ROW_MEMORY: tuple[tuple[MemoryKind, tuple[str, ...]], ...] = (
    (
        "allocated",
        (
            "memory/max_allocated (GiB)",
            "memory/max_mem_allocated(gib)",
            "memory/max_mem_allocated(GiB)",
            "memory/max_active (GiB)",
            "memory/max_mem_active(gib)",
            "memory/max_mem_active(GiB)",
        ),
    ),
    (
        "reserved",
        ("memory/device_reserved (GiB)", "memory/device_mem_reserved(gib)", "memory/device_mem_reserved(GiB)"),
    ),
)
"""Of what is allocated and what is active, which torch counts alike, the first that is there."""
_ROW_RATES = ("tokens/train_per_sec_per_gpu", "tokens_per_second_per_gpu")
_ROW_TOKENS: tuple[tuple[str, TokenUnit], ...] = (("tokens/total", "padded"), ("tokens/trainable", "label"))
_TEXT = 300


class AxolotlLines:
    """axolotl's own lines; the Trainer's rows only for what axolotl puts into them."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            "axolotl",
            *("max_allocated", "max_active", "max_mem_allocated", "max_mem_active"),
            *("train_per_sec_per_gpu", "tokens_per_second_per_gpu"),
            # keys of a printed config; digits part words
            *("base_model", "adapter", "load_in_", "bf", "fp", "optimizer", "gradient_checkpointing"),
            *("attn_implementation", "flash_attention", "sdp_attention", "xformers_attention", "sample_packing"),
            *("num_epochs", "max_steps", "lora_r", "lora_alpha", "lora_target_linear", "learning_rate"),
            *("sequence_len", "micro_batch_size", "gradient_accumulation_steps", "world_size", "peft_use_dora"),
        }
    )

    def __init__(self) -> None:
        """Start with a new file."""
        self._processes: set[str] = set()
        self._block: dict[str, object] = {}
        self._block_lines: dict[str, int] = {}
        self._block_start = 0
        self._steps: tuple[float, int] | None = None
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
        process = " ".join(f"{name}:{found[name.lower()]}" for name in ("PID", "RANK") if found[name.lower()])
        is_new = bool(process) and process not in self._processes
        # A sign may begin another segment, to which the rest then belongs.
        yield from events
        if events or is_new or not self._processes:
            yield Observation(name="trainer", value="axolotl", line=number)
        if is_new or not self._processes:
            self._processes.add(process)
        if is_new:
            yield Observation(name="process", value=process, line=number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield memory, token rate and token counts of a row."""
        del text
        if not any(key in row for _, keys in _ROW_MEMORY for key in keys) and not any(key in row for key in _ROW_RATES):
            return
        epoch = to_number(row.get("epoch"))
        phase: Phase = "eval" if any(key.startswith("eval_") for key in row) else "step"
        known = False
        for kind, keys in _ROW_MEMORY:
            sizes = [size for key in keys if (size := to_number(row.get(key)))]
            known = known or any(key in row for key in keys)
            if sizes:
                yield _memory("peak_memory", sizes[0], number, phase, kind, "peak", epoch)
        # torchtune writes a rate of that name as well, in rows without the Trainer's own numbers.
        if known or {"loss", "grad_norm", "learning_rate"} <= row.keys():
            yield Observation(name="trainer", value="axolotl", line=number)
            yield from _tokens(row, number, epoch)

    def _message(self, message: str, prefix: re.Match[str], text: str, number: int) -> Iterator[Event]:
        if message == "Starting trainer...":
            if prefix["rank"] not in (None, "0"):
                return
            yield Sign(kind=SignKind.START, line=number, text=text[:_TEXT])
            if self._steps is not None:
                steps, line = self._steps
                # Counted before the training from lengths; the Trainer's own count differs by some steps an epoch.
                yield Observation(name="steps_total", value=steps, line=line, unit="steps", certain=False)
                self._steps = None
        elif (kind := _sign_kind(message)) is not None:
            step = _step(message) if kind in (SignKind.SAVING, SignKind.RESUMED) else None
            yield Sign(kind=kind, line=number, text=text[:_TEXT], step=step)
        elif "GB" in message:
            yield from _memory_line(message, number)
        elif "steps" in message:
            yield from self._planned_steps(message, number)
        elif "sample_packing_eff_est" in message:
            # The samplers print it again for all data, evaluation data included.
            if "samplers" not in prefix["logger"]:
                yield from self._packing(message, number)
        else:
            yield from _words(message, number)

    def _planned_steps(self, message: str, number: int) -> Iterator[Event]:
        if found := _MOST_STEPS.match(message):
            self._steps = None
            yield Observation(name="steps_total", value=float(found["steps"]), line=number, unit="steps")
        elif found := _ESTIMATED_STEPS.match(message):
            # The evaluation data is counted first, in the same words: only the last one counts.
            self._steps = (float(found["steps"]), number)

    def _packing(self, message: str, number: int) -> Iterator[Event]:
        """Read the non-padding share of the tokens. The second form is the first, rounded up to a hundredth."""
        if found := _EFFICIENCIES.match(message):
            shares = [float(share) for share in _SHARE.findall(found["shares"])]
            aggregation: Aggregation | None = "mean" if len(shares) > 1 else None
            self._has_efficiency = bool(shares)
        elif (found := _EFFICIENCY.match(message)) and not self._has_efficiency:
            shares, aggregation = [float(found["share"])], None
        else:
            return
        yield Observation(name="packed", value="true", line=number)
        if shares and 0 < fmean(shares) <= 1:
            yield Observation(
                name="packing_efficiency", value=fmean(shares) * 100, line=number, unit="%", aggregation=aggregation
            )

    def _collect(self, text: str, number: int) -> None:
        """Collect a line of the printed config, which has no end marker."""
        if number - self._block_start > _BLOCK_LINES:
            self._block_start = 0
            return
        found = _SETTING.fullmatch(text.rstrip())
        if found is None or found["key"] not in KEYS or found["key"] in self._block:
            return
        try:
            self._block[found["key"]] = parse_json(found["value"].removesuffix(","))
        except ValueError:
            return
        self._block_lines[found["key"]] = number

    def _settings(self) -> Iterator[Event]:
        """Yield the settings of the printed config, once another line shows that it is complete."""
        values, lines = self._block, self._block_lines
        self._block, self._block_lines, self._block_start = {}, {}, 0
        if "base_model" in values:
            yield from settings(values, lines)


def _sign_kind(message: str) -> SignKind | None:
    if _RESUMED.match(message):
        return SignKind.RESUMED
    return next((kind for beginning, kind in _SIGNS if message.startswith(beginning)), None)


def _words(message: str, number: int) -> Iterator[Event]:
    """Yield the dtype and class of the loaded model, from messages with a single fact each."""
    for beginning, name, word in _SAYINGS:
        if message.startswith(beginning):
            yield Observation(name=name, value=word, line=number)
            return
    if found := _DTYPE.match(message):
        yield Observation(name="dtype", value=found["dtype"], line=number)
    elif found := _MODULES.match(message):
        modules = ",".join(re.findall(r"'([\w.]+)'", found["modules"]))
        if modules:
            yield Observation(name="target_modules", value=modules, line=number)


def _memory_line(message: str, number: int) -> Iterator[Event]:
    if found := _PEAK.match(message):
        peak: Aggregation = "peak"
        sizes: tuple[tuple[MemoryKind, float], ...] = (
            ("allocated", float(found["allocated"])),
            ("reserved", float(found["reserved"] or 0)),
        )
    elif found := _USED.match(message):
        # What is in use between two steps is less than the peak within one; the cache holds what the peak needed.
        peak = "last"
        used = float(found["used"])
        sizes = (("allocated", used), ("reserved", round(used + float(found["cache"]), 3) if found["cache"] else 0.0))
    else:
        return
    training = found["when"] == "while training"
    for kind, size in sizes:
        if size > 0:
            name: ObservationName = "peak_memory" if training else "memory_before_training"
            yield _memory(name, size, number, "step" if training else "after_init", kind, peak)


def _memory(
    name: ObservationName,
    size: float,
    line: int,
    phase: Phase,
    kind: MemoryKind,
    aggregation: Aggregation,
    epoch: float | None = None,
) -> Observation:
    return Observation(
        name=name, value=size, line=line, unit="GiB", epoch=epoch, phase=phase, kind=kind, aggregation=aggregation
    )


def _tokens(row: Row, number: int, epoch: float | None) -> Iterator[Event]:
    # The closing row repeats a counter that has just been set to zero.
    rate = next((rate for key in _ROW_RATES if (rate := to_number(row.get(key)))), None)
    if rate is not None and rate > 0 and "train_runtime" not in row:
        yield observed("tokens_per_second", rate, number, epoch=epoch, token_unit="label")
    for key, unit in _ROW_TOKENS:
        count = to_count(row.get(key))
        if count:
            yield observed("tokens_seen", count, number, epoch=epoch, token_unit=unit, aggregation="last")


def _step(message: str) -> int | None:
    steps = _CHECKPOINT.findall(message)
    return int(steps[-1]) if steps else None


READERS: tuple[type[LogReader], ...] = (AxolotlLines,)
"""Readers of lines."""
DOCUMENTS: tuple[DocumentReader, ...] = (read_config,)
"""Readers of state files and configs."""
TRAINERS = (LoggedTrainer(name="axolotl", precedence=4, bar=BarCount.RUN_STEPS),)
"""Names in readings."""
