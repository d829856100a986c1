"""LLaMA-Factory's own output and files, apart from the Trainer's.

Source: llamafactory.extras.logging (prefixes), llamafactory.train.callbacks (trainer_log.jsonl, the board's rows),
llamafactory.hparams.parser, llamafactory.model (adapter, quantization, attention), llamafactory.extras.misc (rates).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from touchline.backends.llamafactory.format import READ_KEYS, evidence, read_config
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
from touchline.backends.logtext.parts import NUMBER, not_a_number, to_count, to_number, to_seconds
from touchline.core.observation import Event, Inside, Observation, ObservationName, SignKind
from touchline.core.quantity import MemoryKind, TokenUnit

_NAMED = re.compile(r"(?: - |\] |\|)(?:llamafactory|llmtuner)(?:\.[\w.]+)?(?::\d+(?:\]| >>)| - ) ?(?P<message>.*)")
_BOARD = re.compile(r"\[[A-Z]+\|20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\] [\w.]+\.py:\d+ >> (?P<message>.*)")
"""The board's running_log.txt; it holds the Trainer's lines in the same form."""
_PROCESS = re.compile(
    r"Process rank: (?P<rank>-?\d+), (?:world size: (?P<world>\d+), )?device: (?P<device>\w+)(?::\d+)?, "
    r"(?:n_gpu: (?P<count>\d+), ?)?\s*distributed training: (?P<distributed>True|False)"
    r"(?:, compute dtype: (?:torch\.)?(?P<dtype>\w+))?"
)
_RESUMED = re.compile(r"Resuming training from (?P<path>\S+)")
_METHOD = re.compile(r"Fine-tuning method: (?P<method>LoRA|DoRA|OFT|Full|Freeze)\s*$")
_QUANTIZING = re.compile(
    r"Quantizing model to (?P<bits>\d) bit(?: with (?P<by>\w+))?\."
    r"|Loading (?P<loaded>\d)-bit (?P<of>\w+)-quantized model\."
)
_FACTS: tuple[tuple[ObservationName, re.Pattern[str], str], ...] = (
    # On several nodes it is the number of this one.
    ("gpus", re.compile(r"Initializing (\d+) distributed tasks at: "), ""),
    ("gradient_checkpointing", re.compile(r"Gradient checkpointing enabled\."), "true"),
    (
        "adapter_dtype",
        re.compile(r"(?:Upcasting|.* detected, remaining) trainable params (?:to|in) float32\."),
        "float32",
    ),
    ("target_modules", re.compile(r"Found linear modules: ([\w.]+(?:,[\w.]+)*)\s*$"), ""),
    ("attention", re.compile(r"Using FlashAttention-2 for faster training and inference\."), "flash_attention_2"),
    ("attention", re.compile(r"Using FlashAttention-3 "), "flash_attention_3"),
    ("attention", re.compile(r"Using torch SDPA for faster training and inference\."), "sdpa"),
    ("attention", re.compile(r"Using vanilla [Aa]ttention implementation\."), "eager"),
)
"""Observations of a message, and their words; without one, the pattern's group is it."""
_RATE = re.compile(rf"\s*effective_tokens_per_sec\s+=\s+(?P<rate>{NUMBER})\s*$")
_ARGUMENTS = re.compile(r"Training/evaluation parameters \w*TrainingArguments\(")
_ARGUMENT = re.compile(r"(?P<key>\w+)=(?P<value>.*),")
_ARGUMENT_LINES = 200
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\b")
_INSIDE: tuple[Inside, ...] = ("evaluation", "saving")
_ENOUGH_EPOCHS = 0.5
"""Epochs from which on their two decimals show how many are planned."""
_MEMORY: tuple[tuple[str, MemoryKind], ...] = (("vram_allocated", "allocated"), ("vram_reserved", "reserved"))


@dataclass(slots=True)
class _Process:
    """State of a process that writes trainer_log.jsonl."""

    total: int
    first: int
    step: int = 0
    elapsed: float = -1.0
    interval: int = 0


class LlamaFactoryLines:
    """LLaMA-Factory's own lines and the rows of its trainer_log.jsonl."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("llamafactory", "llmtuner", "current_steps", "throughput", "effective_tokens_per_sec"),
            # of lines in the board's log, whose prefix has no word of its own
            *("compute", "tuning", "sdpa", "flashattention", "quantizing", "quantized", "resuming", "checkpointing"),
            "upcasting",  # of the trained weights
            # printed arguments
            *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"),
            *("learning_rate", "optim", "bf", "fp"),
        }
    )

    def __init__(self) -> None:
        """Start with a new file."""
        self._known = False
        self._quantized = False
        self._arguments: dict[str, object] = {}
        self._argument_lines: dict[str, int] = {}
        self._arguments_start = 0
        self._processes: list[_Process] = []
        self._resumed = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line."""
        found = _NAMED.search(text) if "llamafactory" in text or "llmtuner" in text else _BOARD.match(text)
        if found is None:
            if self._arguments_start:
                self._collect(text, number)
            elif "/llamafactory/" in text or "/llmtuner/" in text:
                yield _trainer(number)  # a frame of a traceback, a path in a warning
            elif rate := _RATE.match(text):
                yield _trainer(number)
                yield from _rate(rate["rate"], number, "real")
            return
        self._known = True
        yield from self._settings()
        message = found["message"].strip()
        if _ARGUMENTS.match(message):
            self._arguments_start = number
        yield from self._message(message, text, number)
        yield _trainer(number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a row of trainer_log.jsonl, or of the board's log."""
        if "current_steps" in row and "total_steps" in row:
            yield from self._trainer_log(row, text, number)
            return
        if self._known and (" >> {" in text or " - {" in text) and {"loss", "learning_rate", "epoch"} <= row.keys():
            yield from _rate(row.get("throughput"), number, "padded", epoch=to_number(row.get("epoch")))

    def _message(self, message: str, text: str, number: int) -> Iterator[Event]:
        if found := _PROCESS.match(message):
            self._quantized = False
            yield from _process(found, number)
        elif found := _RESUMED.match(message):
            steps = _CHECKPOINT.findall(found["path"])
            self._resumed = True
            yield to_sign(SignKind.RESUMED, text, number, int(steps[-1]) if steps else None)
        elif found := _QUANTIZING.match(message):
            self._quantized = True
            bits, by = found["bits"] or found["loaded"], (found["by"] or found["of"] or "bitsandbytes").lower()
            # bitsandbytes makes fp4 of it only when asked to, and then the line is the same.
            word = f"int{bits}" if by == "bitsandbytes" and bits == "8" else f"{bits}-bit"
            yield Observation(name="quantization", value=word, line=number)
        elif found := _METHOD.match(message):
            method = found["method"].lower()
            word = "qlora" if method == "lora" and self._quantized else method
            yield Observation(name="method", value=word, line=number)
        else:
            for name, pattern, word in _FACTS:
                if found := pattern.match(message):
                    value = float(found[1]) if name == "gpus" else word or found[1]
                    yield Observation(name=name, value=value, line=number, certain=name != "gpus")

    def _trainer_log(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Read a row of trainer_log.jsonl. Without an epoch it counts batches of an evaluation or prediction."""
        step, total, epoch = to_count(row.get("current_steps")), to_count(row["total_steps"]), row.get("epoch")
        if not step or not total or (epoch is None and row.get("loss") is None):
            yield _trainer(number)
            return
        elapsed = to_seconds(str(row.get("elapsed_time", "")))
        yield from self._new_process(step, total, elapsed, text, number)
        at = to_number(epoch)
        # The step comes first: it tells which process the rest of the row is of, where several write the file.
        yield observed("step", step, number, step=step, epoch=at)
        yield _trainer(number)
        yield observed("steps_total", total, number)
        planned = (at or 0.0) * total / step
        if at and at >= _ENOUGH_EPOCHS and abs(planned - round(planned)) <= 0.01 * planned:
            yield observed("epochs", round(planned), number, certain=False)
        yield from figure("train_seconds", elapsed, number, step=step, epoch=at, aggregation="last", inside=_INSIDE)
        yield from figure("loss", row.get("loss"), number, step=step, epoch=at)
        if not_a_number(row.get("loss")):
            yield to_sign(SignKind.NOT_A_NUMBER, text, number, step)
        yield from figure("eval_loss", row.get("eval_loss"), number, step=step, epoch=at)
        if not self._resumed:
            # After a resume all tokens, those before it as well, are divided by the time since.
            yield from _rate(row.get("throughput"), number, "padded", step, at)
        for key, kind in _MEMORY:
            more = AttributesOfMemory(step=step, epoch=at, phase="step", kind=kind, aggregation="peak")
            yield from figure("peak_memory", row.get(key), number, unit="GiB", positive=True, **more)
        yield from _rate(row.get("effective_tokens_per_sec"), number, "real", step)
        measured = ("loss", "eval_loss", "predict_loss", "reward", "accuracy", "lr", "learning_rate")
        if step >= total and all(row.get(key) is None for key in measured):
            # Only the Trainer's closing row has nothing to say but where it stands.
            yield to_sign(SignKind.TRAINED, text, number, step)

    def _new_process(self, step: int, total: int, elapsed: float | None, text: str, number: int) -> Iterator[Event]:
        """Detect another process by a clock that starts again, from the beginning or from a checkpoint.

        Two processes may append at once. Each row then continues from the last row of its own process.
        """
        if elapsed is None:
            return
        now = self._processes[-1] if self._processes else None
        if now is None or now.total != total or elapsed < now.elapsed:
            other = self._process_of(step, total, elapsed)
            if other is not None:
                self._processes.remove(other)
                self._processes.append(other)
            else:
                if now is not None:
                    self._resumed = step > self._processes[0].first and now.total == total
                    kind = SignKind.RESUMED if self._resumed else SignKind.START
                    yield to_sign(kind, text, number)
                self._processes = [*self._processes[-3:], _Process(total=total, first=step)]
        elif step - now.step > 2 * now.interval > 0 and (other := self._process_of(step, total, elapsed)) is not None:
            self._processes.remove(other)
            self._processes.append(other)
        now = self._processes[-1]
        now.interval = step - now.step if step - now.step > 0 else now.interval
        now.step, now.elapsed = step, elapsed

    def _process_of(self, step: int, total: int, elapsed: float) -> _Process | None:
        for process in self._processes[:-1]:
            interval = process.interval or step - process.step
            if process.total == total and elapsed >= process.elapsed and step == process.step + interval > process.step:
                return process
        return None

    def _collect(self, text: str, number: int) -> None:
        """Collect a line of the printed arguments, which have no end marker."""
        if number - self._arguments_start > _ARGUMENT_LINES:
            self._arguments_start = 0
            return
        found = _ARGUMENT.fullmatch(text.strip())
        if found is not None and found["key"] in READ_KEYS and found["key"] not in self._arguments:
            self._arguments[found["key"]] = found["value"]
            self._argument_lines[found["key"]] = number

    def _settings(self) -> Iterator[Event]:
        """Yield the printed arguments, once another line shows that they are complete."""
        values, lines = self._arguments, self._argument_lines
        self._arguments, self._argument_lines, self._arguments_start = {}, {}, 0
        if values:
            yield from evidence(values, lines)


def _trainer(number: int) -> Observation:
    return Observation(name="trainer", value="llamafactory", line=number)


def _process(found: re.Match[str], number: int) -> Iterator[Event]:
    if found["dtype"] and found["dtype"] != "None":
        yield Observation(name="dtype", value=found["dtype"], line=number)
    # In a distributed training each process counts its own device only.
    count = found["world"] or (found["count"] if found["distributed"] == "False" else None)
    if found["device"] != "cpu" and count and (found["world"] or int(count) > 0):
        yield Observation(name="gpus", value=float(count), line=number)


def _rate(
    rate: object, number: int, unit: TokenUnit, step: int | None = None, epoch: float | None = None
) -> Iterator[Event]:
    """Read a rate since the beginning: the Trainer's of padded input tokens, or the dataset's of each process."""
    more = AttributesOfMemory(step=step, epoch=epoch, token_unit=unit, aggregation="mean", inside=_INSIDE)
    yield from figure("tokens_per_second", rate, number, positive=True, **more)


READERS: tuple[type[LogReader], ...] = (LlamaFactoryLines,)
DOCUMENTS: tuple[DocumentReader, ...] = (read_config,)
TRAINERS = (LoggedTrainer(name="llamafactory", precedence=4, bar=BarCount.RUN_STEPS),)
