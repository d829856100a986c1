"""ms-swift's own output and files, besides the Trainer's.

Source: swift.utils.logger (prefix), swift.trainers.patcher and swift.megatron.callbacks (rows, logging.jsonl),
swift.pipelines.train.sft, swift.pipelines.base, swift.utils.transformers_utils (parameters), swift.cli.main (command).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.logtext.emitter import observed
from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import BarCount, DocumentReader, LoggedTrainer, LogReader, Row
from touchline.backends.swift.config import KEYS, arguments, flags, plain, read_config, settings
from touchline.core.observation import Event, Inside, Observation, Sign, SignKind

_PREFIX = re.compile(
    r"(?:\[(?:DEBUG|INFO|WARNING|ERROR):swift\]|\d - swift - (?:DEBUG|INFO|WARNING|ERROR) -) ?(?P<message>.*)"
)
_COMMAND = re.compile(r"run sh: `(?P<command>[^`]*(?<!megatron)/(?:sft|pt|rlhf)\.py [^`]*)`?\s*$")
_ARGUMENTS = re.compile(r"args: (?:Sft|Train|Pt|RLHF)Arguments\(")
_ARGUMENT = re.compile(r"(?:\[[\d :,.-]+\] )?(?P<key>\w+)=(?P<value>.*),")
_ARGUMENT_LINES = 1200
"""Some five hundred arguments; a container's log may put an empty line behind each."""
_WORLD = re.compile(r"rank: -?\d+, local_rank: -?\d+, world_size: (?P<world>\d+), local_world_size: \d+")
_VERSION = re.compile(r"swift\.__version__: (?P<version>\d[\w.+]*)\s*$")
_DOWNLOADED = re.compile(r"Downloading the model from [\w ]+ Hub, model_id: (?P<model>\S+)\s*$")
_LOADED = re.compile(r"Loading the model using model_dir: (?P<path>\S+)\s*$")
_MODEL_INFO = re.compile(r"model_info: ModelInfo\(.*?\btorch_dtype=torch\.(?P<dtype>\w+)")
_SETTING = re.compile(r"Setting (?:args\.)?(?P<key>\w+): (?P<value>\S+)\s*$")
_LENGTH = re.compile(r"max_length: (?P<tokens>\d+)\s*$")
_ROWS = re.compile(r"Dataset Token Length: \d.*\bsize=(?P<rows>\d+)\s*$")
_TRAIN_DATASET = "train_dataset: Dataset({"
_NUM_ROWS = re.compile(r"(?:\[[\d :,.-]+\] )?\s*num_rows: (?P<rows>\d+)\s*$")
_PARAMETERS = re.compile(
    r"model_parameter_info: \w+: (?P<total>[\d.]+)M Params \((?P<trainable>[\d.]+)M Trainable \[[\d.]+%\]\)"
)
_LORA = re.compile(r"lora_config: LoraConfig\(")
_LORA_PARTS = re.compile(r"\b(?:r=(?P<rank>\d+)|lora_alpha=(?P<alpha>\d+)|target_modules=\{(?P<targets>[^}]*)\}),")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\b")
_SIGNS: tuple[tuple[str, SignKind], ...] = (
    ("The logging file will be saved in: ", SignKind.START),
    ("Saving model checkpoint to ", SignKind.SAVING),
    ("Saving merged weights...", SignKind.EXPORTING),
    ("Merge LoRA...", SignKind.EXPORTING),
    ("Successfully merged LoRA and saved in ", SignKind.SAVED),
)
_AT = re.compile(r"(?P<step>\d+)/(?P<total>\d+)")
_ELAPSED = re.compile(r"(?:(\d+)d )?(?:(\d+)h )?(?:(\d+)m )?(\d+)s")
_SIZE = re.compile(r"(?P<size>[\d.]+) ?GiB")
_INSIDE: tuple[Inside, ...] = ("evaluation", "saving")
_PLACES = 0.00005e6
"""Parameters by which a count in millions with four decimals may be off."""
_TEXT = 300


class SwiftLines:
    """ms-swift's own lines, and what it puts into the Trainer's rows."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("swift", "sh", "num_rows", "global_step", "max_steps", "train_speed"),
            # printed arguments
            *("model_id_or_path", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
            *("learning_rate", "max_length", "packing", "gradient_checkpointing", "optim", "attn_impl"),
            *("use_flash_attn", "lora_rank", "lora_alpha", "target_modules", "lora_target_modules", "use_dora"),
            *("train_type", "tuner_type", "sft_type", "quant_bits", "quantization_bit", "quant_method", "torch_dtype"),
            *("global_world_size", "resume_from_checkpoint", "resume_only_model", "swift_version"),
        }
    )

    def __init__(self) -> None:
        """Start with a new file."""
        self._known = False
        self._trains = False
        self._packed: bool | None = None
        self._counts_rows = True
        self._num_rows_until = 0
        self._arguments: dict[str, object] = {}
        self._argument_lines: dict[str, int] = {}
        self._arguments_start = 0

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line."""
        found = _PREFIX.search(text) if "swift" in text else None
        if found is None:
            yield from self._bare(text, number)
            return
        self._known = True
        yield from self._settings()
        message = found["message"].strip()
        if _ARGUMENTS.match(message):
            yield Sign(kind=SignKind.START, line=number, text=text[:_TEXT])
            self._arguments_start, self._counts_rows = number, True
            self._arguments = arguments(message)
            self._argument_lines = dict.fromkeys(self._arguments, number)
        else:
            yield from self._message(message, text, number)
        yield _trainer(number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield the position, duration and memory of a row. The Trainer's reader yields its losses."""
        del text
        # Megatron names it `iteration`.
        at = row.get("global_step/max_steps") or (row.get("iteration") if "train_speed(s/it)" in row else None)
        found = _AT.fullmatch(str(at))
        step = int(found["step"]) if found else to_count(row.get("global_step"))
        epoch = to_number(row.get("epoch"))
        # `global_step` is a name that others use as well.
        if step is None or not (found or self._known or "memory(GiB)" in row or "train_speed(iter/s)" in row):
            return
        self._known = True
        yield _trainer(number)
        if found and int(found["total"]) > 0:
            yield Observation(name="steps_total", value=float(found["total"]), line=number, unit="steps")
        yield Observation(name="step", value=step, line=number, unit="steps", epoch=epoch)
        if "log_history" in row or "last_model_checkpoint" in row:
            yield from _memory(_closing_memory(row.get("memory")), number, step, epoch)
            return
        if not any(key.startswith("eval_") for key in row):
            # It is the highest since the beginning, also in rows of an evaluation, which may need more.
            yield from _memory(to_number(row.get("memory(GiB)")), number, step, epoch)
        if "train_runtime" not in row:
            yield from _times(row, number, step, epoch, bool(found))

    def _bare(self, text: str, number: int) -> Iterator[Event]:
        """Read a line without prefix: of a printed value with several lines, or of the command."""
        if number <= self._num_rows_until and (found := _NUM_ROWS.match(text)):
            self._num_rows_until = 0
            yield Observation(name="total_examples", value=float(found["rows"]), line=number, unit="examples")
        elif self._arguments_start:
            if number - self._arguments_start > _ARGUMENT_LINES:
                self._arguments_start = 0
            elif (found := _ARGUMENT.fullmatch(text.strip())) and found["key"] in KEYS:
                self._arguments.setdefault(found["key"], found["value"])
                self._argument_lines.setdefault(found["key"], number)
        elif text.startswith("run sh: ") and (found := _COMMAND.match(text)):
            yield Sign(kind=SignKind.START, line=number, text=text[:_TEXT])
            yield _trainer(number)
            yield from self._command(found["command"], number)

    def _command(self, command: str, number: int) -> Iterator[Event]:
        written = flags(command)
        given = {key: value for key, value in written.items() if key in KEYS and not key.startswith("resume_")}
        yield from self._say(given, dict.fromkeys(given, number))
        # The script's path may follow a launcher's option.
        devices, nodes = (to_count(str(written.get(key, "1")).split(" ")[0]) for key in ("nproc_per_node", "nnodes"))
        if devices and nodes == 1 and "nproc_per_node" in written:
            yield Observation(name="gpus", value=devices, line=number)

    def _message(self, message: str, text: str, number: int) -> Iterator[Event]:
        for beginning, kind in _SIGNS:
            if message.startswith(beginning):
                self._trains = self._trains or kind is SignKind.START
                step = _step(message) if kind is SignKind.SAVING else None
                yield Sign(kind=kind, line=number, text=text[:_TEXT], step=step)
                return
        if message.startswith("End time of running main: "):
            # Inference and export end with the same words.
            if self._trains:
                yield Sign(kind=SignKind.DONE, line=number, text=text[:_TEXT])
        elif message.startswith(_TRAIN_DATASET):
            self._num_rows_until = number + 8
        elif found := _ROWS.match(message):
            yield from self._rows(float(found["rows"]), number)
        elif found := _PARAMETERS.match(message):
            yield from _parameters(found, number)
        elif _LORA.match(message):
            yield from _lora(message, number)
        elif found := _SETTING.match(message):
            if found["key"] in KEYS:
                yield from self._say({found["key"]: found["value"]}, {found["key"]: number})
        else:
            yield from _words(message, number)

    def _rows(self, rows: float, number: int) -> Iterator[Event]:
        """Read the row counts: first of the training split, then of the validation split."""
        if not self._counts_rows:
            return
        self._counts_rows = False
        if self._packed:
            yield Observation(name="total_sequences", value=rows, line=number, unit="sequences")
        else:
            certain = self._packed is not None
            yield Observation(name="train_examples", value=rows, line=number, unit="examples", certain=certain)

    def _settings(self) -> Iterator[Event]:
        """Yield the printed arguments, once another line shows that they are complete."""
        values, lines = self._arguments, self._argument_lines
        self._arguments, self._argument_lines, self._arguments_start = {}, {}, 0
        if not values:
            return
        path = plain(values.get("resume_from_checkpoint"))
        if isinstance(path, str) and plain(values.get("resume_only_model")) is not True:
            argument = f"resume_from_checkpoint={path}"[:_TEXT]
            yield Sign(kind=SignKind.RESUMED, line=lines["resume_from_checkpoint"], text=argument, step=_step(path))
        yield from self._say(values, lines)

    def _say(self, values: dict[str, object], lines: dict[str, int]) -> Iterator[Event]:
        if "packing" in values:
            self._packed = plain(values["packing"]) is True
        yield from settings(values, lines)


def _trainer(number: int) -> Observation:
    return Observation(name="trainer", value="swift", line=number)


def _words(message: str, number: int) -> Iterator[Event]:
    if found := _VERSION.match(message):
        yield Observation(name="version", value=f"ms-swift={found['version']}", line=number)
    elif found := _WORLD.match(message):
        # One process may spread the model over several devices.
        world = int(found["world"])
        yield Observation(name="gpus", value=world, line=number, certain=world > 1)
    elif found := _DOWNLOADED.match(message):
        yield Observation(name="model", value=found["model"], line=number)
    elif found := _LOADED.match(message):
        yield Observation(name="model", value=found["path"], line=number, certain=False)
    elif found := _MODEL_INFO.match(message):
        yield Observation(name="dtype", value=found["dtype"], line=number)
    elif found := _LENGTH.match(message):
        yield Observation(name="max_seq_len", value=float(found["tokens"]), line=number, unit="tokens")


def _parameters(found: re.Match[str], number: int) -> Iterator[Event]:
    total, trainable = float(found["total"]) * 1e6, float(found["trainable"]) * 1e6
    if trainable > 200 * _PLACES:
        yield Observation(name="trainable_parameters", value=round(trainable), line=number)
    if total > 0:
        # Weights of 4 bits are counted by the bytes that hold them.
        yield Observation(name="total_parameters", value=round(total), line=number, certain=False)


def _lora(message: str, number: int) -> Iterator[Event]:
    for part in _LORA_PARTS.finditer(message):
        if part["rank"]:
            yield Observation(name="lora_rank", value=float(part["rank"]), line=number)
        elif part["alpha"]:
            yield Observation(name="lora_alpha", value=float(part["alpha"]), line=number)
        else:
            modules = sorted(re.findall(r"'([\w.]+)'", part["targets"]))
            if modules:
                yield Observation(name="target_modules", value=",".join(modules), line=number)


def _memory(size: float | None, number: int, step: int, epoch: float | None) -> Iterator[Event]:
    """Yield the highest reserved memory in GiB, of one device or of all that the process uses."""
    if size is not None and size > 0:
        yield observed(
            "peak_memory",
            size,
            number,
            unit="GiB",
            step=step,
            epoch=epoch,
            phase="step",
            kind="reserved",
            aggregation="peak",
        )


def _closing_memory(value: object) -> float | None:
    """Read a number, or `{"cuda": "18.5GiB"}` in version 2."""
    if isinstance(value, dict):
        sizes = [float(found["size"]) for each in value.values() if (found := _SIZE.fullmatch(str(each).strip()))]
        return max(sizes, default=None)
    return to_number(value)


def _times(row: Row, number: int, step: int, epoch: float | None, has_total: bool) -> Iterator[Event]:
    found = _ELAPSED.fullmatch(str(row.get("elapsed_time", "")))
    if found is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        yield observed(
            "train_seconds",
            float(((days * 24 + hours) * 60 + minutes) * 60 + seconds),
            number,
            step=step,
            epoch=epoch,
            aggregation="last",
            inside=_INSIDE,
        )
    # Steps planned may be computed from such a rate where no line tells them: it is given beside them only.
    speed, pace = to_number(row.get("train_speed(iter/s)")), to_number(row.get("train_speed(s/it)"))
    rate = speed or (1 / pace if pace else None)
    if has_total and rate is not None and rate > 0:
        yield observed(
            "train_steps_per_second", rate, number, step=step, epoch=epoch, aggregation="mean", inside=_INSIDE
        )


def _step(path: str) -> int | None:
    steps = _CHECKPOINT.findall(path)
    return int(steps[-1]) if steps else None


READERS: tuple[type[LogReader], ...] = (SwiftLines,)
"""Readers of lines."""
DOCUMENTS: tuple[DocumentReader, ...] = (read_config,)
"""Readers of state files and configs."""
TRAINERS = (LoggedTrainer(name="swift", precedence=4, bar=BarCount.RUN_STEPS),)
"""Names in readings."""
