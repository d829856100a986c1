"""Output and files of the Hugging Face Trainer and TRL.

The parts share what they remember: a resume spoils a rate of tokens, a model that is loaded after the end of one
training belongs to the next. The last row has other shapes too: a table of metrics, a dictionary of one key a line, a
table of a notebook. Source: transformers.trainer_pt_utils.log_metrics, transformers.utils.notebook.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.logtext.events import BarCount, DocumentReader, LoggedTrainer, LogReader, Row, figure, observed
from touchline.backends.logtext.parts import NUMBER, read_row, to_count, to_number, to_seconds
from touchline.backends.trl.rows import INSIDE, TEXT, Banner, TrainerRowParser, mean_loss, rates
from touchline.backends.trl.states import read_adapter, read_arguments, read_results, read_stage, read_trainer_state
from touchline.backends.trl.words import Naming, Words, parameters
from touchline.core.observation import Event, Observation, ProgressBarEvent, Sign, SignKind

_HEADER = re.compile(r"\*{5} \w+ metrics \*{5}\s*$")
_CELL = re.compile(r"(?:^|[\s>:\]-])(?P<key>epoch|(?:train|eval)_\w+)\s+=\s+(?P<value>\S+)\s*$")
_ENTRY = re.compile(
    r"\s*[\[({]*\s*(?P<quote>['\"])(?P<key>epoch|(?:train|eval)_\w+)(?P=quote)\s*:\s*"
    r"(?P<value>['\"]?[-+\w.:]+['\"]?)\s*[,\])}]*\s*"
)
_KEYS = frozenset(
    {
        *("epoch", "train_loss", "train_runtime", "train_samples", "train_samples_per_second"),
        *("train_steps_per_second", "eval_loss", "eval_runtime"),
    }
)
_TABLE_LINES = 60
_BETWEEN_LINES = 3
"""Lines between a notebook's bar and its table."""
_BAR = re.compile(
    r"\[ *(?P<done>\d+)/(?P<total>\d+) +(?P<elapsed>\d+(?::\d\d){1,2})(?P<left> < [\d:]+, (?:[\d.]+|\+inf) it/s)?"
    r", Epoch (?P<epoch>[\d.]+)/(?P<epochs>\d+)\]"
)
_COLUMNS = re.compile(r"\s*(?P<first>Step|Epoch)(?:\t+ *| {2,}| \| )Training Loss\b(?P<rest>.*)")
_GAP = re.compile(r"\t+ *| {2,}| \| ")
_NO_LOG = re.compile(r"no log", re.IGNORECASE)


class Tables:
    """Follows one table at a time."""

    def __init__(self) -> None:
        """Start with a new file."""
        self._kind = ""
        self._start = 0
        self._found: dict[str, tuple[str, int]] = {}
        self._reported: set[str] = set()
        self._columns: list[str] = []
        self._expected = 0

    @property
    def inside(self) -> bool:
        """Return True if the next line matters whatever its words: a row of a notebook's table has none."""
        return bool(self._columns) or self._expected > 0

    # -------------------------------------------------------------------------------------------- metrics, one a line

    def metrics(self, text: str, number: int) -> Iterator[Event]:
        """Read a line of a table of metrics, or of a dictionary with several lines."""
        if _HEADER.search(text) is not None:
            self._begin(number, "table")
            return
        if number - self._start > _TABLE_LINES:
            self._begin(number, "")
        # The table's head may be cut off: its clock tells it as well.
        found, kind = _CELL.search(text), "table"
        if found is None:
            found, kind = (None if "{" in text and "}" in text else _ENTRY.fullmatch(text)), "dictionary"
        if found is None:
            return
        key = found["key"]
        if kind != self._kind or key in self._found:
            self._begin(number, kind)
        if key in _KEYS:
            self._found[key] = (found["value"].strip("'\""), number)
            yield from self._complete(text)

    def _begin(self, number: int, kind: str) -> None:
        self._kind, self._start = kind, number
        self._found, self._reported = {}, set()

    def _complete(self, text: str) -> Iterator[Event]:
        """Yield the events of certain Trainer output: only the Trainer prints a loss together with its runtime."""
        values = {key: value for key, (value, _) in self._found.items()}
        epoch = to_number(values.get("epoch"))
        runtime, at = self._found.get("train_runtime", ("", 0))
        if self._kind == "table" and ":" not in (runtime or values.get("eval_runtime", "")):
            return
        if runtime and "train_loss" in values and self._is_new("train_runtime"):
            yield from figure("train_seconds", _seconds(runtime), at, positive=True, epoch=epoch, inside=INSIDE)
            yield Observation(name="trainer", value="hf_trainer", line=at)
            yield from mean_loss(values["train_loss"], text, self._found["train_loss"][1], epoch)
            yield Sign(kind=SignKind.TRAINED, line=max(at, self._found["train_loss"][1]), text=text[:TEXT])
        if "train_runtime" in self._reported:
            if "train_steps_per_second" in values and self._is_new("train_steps_per_second"):
                # Rate and runtime are of one block, and so of one place.
                yield from rates(values, at, epoch)
            rows = to_count(values.get("train_samples"))
            if rows and self._is_new("train_samples"):
                line = self._found["train_samples"][1]
                yield Observation(name="train_examples", value=rows, line=line, unit="examples")
        if "eval_loss" in values and "eval_runtime" in values and self._is_new("eval_loss"):
            yield from figure("eval_loss", values["eval_loss"], self._found["eval_loss"][1], epoch=epoch)

    def _is_new(self, key: str) -> bool:
        new = key not in self._reported
        self._reported.add(key)
        return new

    # ------------------------------------------------------------------------------------------------------- notebook

    def bar(self, text: str, number: int) -> Iterator[Event]:
        """Read the label of a notebook's bar: `[ 61/156 18:06 < 28:43, 0.06 it/s, Epoch 0.39/1]`."""
        found = _BAR.search(text)
        if found is None or int(found["total"]) == 0:
            return
        done, total = int(found["done"]), int(found["total"])
        if found["left"]:
            # While it trains, the step that comes next is shown.
            done = max(0, done - 1)
        self._expected = number + _BETWEEN_LINES
        yield ProgressBarEvent("training", done, total, to_seconds(found["elapsed"]), number)
        yield observed("steps_total", total, number)
        yield observed("step", done, number)
        yield observed("epochs", int(found["epochs"]), number)
        yield Observation(name="trainer", value="hf_trainer", line=number)

    def columns(self, text: str, number: int) -> Iterator[Event]:
        """Read the head of a notebook's table, `Step` and `Training Loss`, and its rows."""
        head = _COLUMNS.fullmatch(text.rstrip())
        if head is not None or number >= self._expected:
            self._expected = 0
        if head is not None:
            self._columns = [head["first"], "Training Loss", *_GAP.split(head["rest"].strip())]
            yield Observation(name="trainer", value="hf_trainer", line=number, certain=False)
            return
        if not self._columns or not text.strip():
            return
        cells = _NO_LOG.sub("-", text).split()
        place = to_number(cells[0])
        if place is None or len(cells) < 2 or any(to_number(cell) is None for cell in cells[1:] if cell != "-"):
            self._columns = []
            return
        step = to_count(place) if self._columns[0] == "Step" else None
        epoch = place if self._columns[0] == "Epoch" else None
        yield from figure("loss", cells[1], number, step=step, epoch=epoch)
        if len(cells) > 2 and self._columns[2:3] == ["Validation Loss"]:
            yield from figure("eval_loss", cells[2], number, step=step, epoch=epoch)


def _seconds(value: str) -> float | None:
    """Return seconds from the table's `0:50:01.40` or a dictionary's number."""
    clock = to_seconds(value) if ":" in value else None
    return clock if clock is not None else to_number(value)


_OUTPUT = re.compile(rf"\bTrainOutput\(global_step=(?P<step>\d+),? *(?:training_loss=(?P<loss>{NUMBER}|nan|inf)\b)?")
_DICTIONARY = re.compile(r"\{[^{}]*\}")
_ROW_WORDS = ("learning_rate", "train_runtime", "eval_runtime")
_MOST_ROWS = 256
_LINE_LIMIT = 4000
"""Characters of a sentence; longer lines are data, of which only rows are read."""


class TrainerLines:
    """The Trainer's rows, its sentences, and what scripts that use it print next to them."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            # rows, tables and notebooks
            *("loss", "learning_rate", "train_runtime", "train_loss", "eval_loss", "eval_runtime", "trainoutput"),
            *("metrics", "train_samples", "train_samples_per_second", "train_steps_per_second", "epoch"),
            # the banner and the course
            *("running", "num", "instantaneous", "accumulation", "optimization", "trainable"),
            *("continuing", "resuming", "resumed", "skip", "trainer_state", "saving", "forget", "best"),
            # models and versions
            *("_name_or_path", "config", "configuration", "weights", "padding", "loading", "model", "base_model"),
            *("model_name", "model_id", "tokenizer", "training", "tuning", "finetuning"),
            *("transformers_version", "pytorch", "transformers", "torch", "peft", "accelerate", "bitsandbytes"),
            # TRL
            *("trl", "sfttrainer", "dpotrainer", "grpotrainer", "kto", "ktotrainer", "orpotrainer", "rewardtrainer"),
            *("sftconfig", "dpoconfig", "grpoconfig", "rewardconfig", "ktoconfig", "rlootrainer", "gkdtrainer"),
            # arguments, printed or on a command line; digits part words
            *("trainingarguments", "seq", "loraconfig", "model_name_or_path", "per_device_train_batch_size"),
            *("gradient_accumulation_steps", "num_train_epochs", "max_steps", "max_seq_length", "max_length"),
            *("packing", "gradient_checkpointing", "optim", "bf", "fp", "lora_r", "lora_rank", "lora_alpha"),
            *("lora_dropout", "torch_compile", "lora_target_modules"),
            *("attn_implementation", "load_in_", "use_peft"),
        }
    )

    def __init__(self) -> None:
        """Start with a new file."""
        self._rows = TrainerRowParser()
        self._banner = Banner(self._rows)
        self._tables = Tables()
        self._naming = Naming()
        self._words = Words()

    @property
    def inside(self) -> bool:
        """Return True if the next lines matter whatever their words: rows of a notebook's table."""
        return self._tables.inside

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line; `row` reads rows that are a whole line."""
        yield from self._following(self._read(text, number))

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line that is one dictionary."""
        yield from self._following(self._rows.read(row, text, number))

    def _read(self, text: str, number: int) -> Iterator[Event]:
        yield from self._tables.columns(text, number)
        if "{" in text or "TrainOutput(" in text:
            yield from self._rows_within(text, number)
        if len(text) > _LINE_LIMIT:
            return
        yield from self._tables.metrics(text, number)
        if "Epoch " in text:
            yield from self._tables.bar(text, number)
        yield from self._banner.read(text, number)
        if "rainable" in text or "RAINABLE" in text:
            yield from parameters(text, number)
        yield from self._words.read(text, number)
        self._rows.is_trl = self._rows.is_trl or self._words.is_trl
        yield from self._naming.read(text, number)

    def _following(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events. A new training resets the known model."""
        for event in events:
            yield event
            if _is_end(event):
                self._naming.over()
            elif isinstance(event, Sign | Observation) and _shows_training(event):
                yield from self._naming.begins()

    def _rows_within(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of rows with text behind them, of several on one line, or within `TrainOutput(...)`."""
        if '"log_history": [' in text and self._rows.has_trained:
            return  # the whole history once more
        output = _OUTPUT.search(text) if "TrainOutput(" in text else None
        if output is None and not any(word in text for word in _ROW_WORDS):
            return
        if output is None and text.rstrip().endswith("}") and text.count("{") == 1:
            return
        if output is not None:
            step = to_count(output["step"])
            yield Observation(name="step", value=float(output["step"]), line=number, unit="steps")
            if "train_loss" not in text:
                yield from mean_loss(output["loss"], text, number)
            yield Sign(kind=SignKind.TRAINED, line=number, text=text[:TEXT], step=step)
        for count, found in enumerate(_DICTIONARY.finditer(text)):
            if count >= _MOST_ROWS:
                return
            row = read_row(found[0]) if ":" in found[0] else None
            if row is not None:
                events = self._rows.read(row, text, number)
                yield from (event for event in events if output is None or not _is_end(event))


def _is_end(event: Event) -> bool:
    return isinstance(event, Sign) and event.kind is SignKind.TRAINED


def _shows_training(event: Observation | Sign) -> bool:
    if isinstance(event, Sign):
        return event.kind in (SignKind.START, SignKind.RESUMED)
    return event.name in ("trainable_parameters", "loss", "steps_total")


_HINT = re.compile(
    r"trainer\.train\(|_inner_training_loop|_maybe_log_save_evaluate|Trainer\.tokenizer is now deprecated"
    r"|is incompatible with gradient checkpointing|No label_names provided|TrainingArguments\("
    r"|should probably TRAIN this model|Checkpoint destination directory|fast tokenizer, using the `__call__` method"
)


class HintLines:
    """Reader of one file's hints; the first is enough."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("trainer", "_inner_training_loop", "_fast_inner_training_loop", "_maybe_log_save_evaluate"),
            *("label_names", "trainingarguments", "probably", "incompatible", "__call__"),
        }
    )

    def __init__(self) -> None:
        """Start a file."""
        self._seen = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line."""
        if not self._seen and _HINT.search(text):
            self._seen = True
            yield Observation(name="trainer", value="generic", line=number, certain=False)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Return no events."""
        del row, text, number
        return iter(())


READERS: tuple[type[LogReader], ...] = (TrainerLines, HintLines)
DOCUMENTS: tuple[DocumentReader, ...] = (read_trainer_state, read_results, read_adapter, read_stage, read_arguments)
TRAINERS = (
    LoggedTrainer(name="trl", precedence=1, bar=BarCount.RUN_STEPS),
    LoggedTrainer(name="hf_trainer", precedence=0, bar=BarCount.RUN_STEPS),
)
