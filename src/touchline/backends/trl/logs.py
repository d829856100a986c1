"""Output and files of the Hugging Face Trainer and TRL.

The parts share what they remember: a resume spoils a rate of tokens, a model that is loaded after the end of one
training belongs to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.logtext.dicts import read_row
from touchline.backends.logtext.numbers import NUMBER, to_count
from touchline.backends.logtext.reader import BarCount, DocumentReader, LoggedTrainer, LogReader, Row
from touchline.backends.trl.banner import Banner
from touchline.backends.trl.rows import TEXT, TrainerRowParser, mean_loss
from touchline.backends.trl.states import (
    read_adapter,
    read_arguments,
    read_results,
    read_stage,
    read_trainer_state,
)
from touchline.backends.trl.tables import Tables
from touchline.backends.trl.words import Naming, Words, parameters
from touchline.core.observation import Event, Observation, Sign, SignKind

_OUTPUT = re.compile(rf"\bTrainOutput\(global_step=(?P<step>\d+),? *(?:training_loss=(?P<loss>{NUMBER}|nan|inf)\b)?")
_DICTIONARY = re.compile(r"\{[^{}]*\}")
_ROW_WORDS = ("learning_rate", "train_runtime", "eval_runtime")
_MOST_ROWS = 256
_LINE_LIMIT = 4000
"""Characters of a sentence; longer lines are data, of which only rows are read."""


class TrainerLines:
    """The Trainer's rows, its sentences, and what scripts that use it print beside them."""

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
"""Readers of lines."""
DOCUMENTS: tuple[DocumentReader, ...] = (read_trainer_state, read_results, read_adapter, read_stage, read_arguments)
"""Readers of state files and configs."""
TRAINERS = (
    LoggedTrainer(name="trl", precedence=1, bar=BarCount.RUN_STEPS),
    LoggedTrainer(name="hf_trainer", precedence=0, bar=BarCount.RUN_STEPS),
)
"""Names in readings."""
