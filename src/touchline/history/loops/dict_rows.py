"""Dictionaries that training loops print or write as JSON lines: `{"step": 10, "loss": 2.3,"
" "tokens_per_second": 900}`.

Rows of the trainers that have readers of their own are left to these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import SIZES, EventEmitter
from touchline.backends.logtext.numbers import not_a_number, to_count, to_number
from touchline.backends.logtext.prefixes import strip_decoration
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event
from touchline.history.loops.grammar import parse
from touchline.history.loops.vocabulary import Concept

_OTHERS_OWN = frozenset(
    {
        *("event", "current_steps", "global_step/max_steps", "train_speed(iter/s)", "train_speed(s/it)", "memory(GiB)"),
        *("train_runtime", "eval_runtime", "eval_samples_per_second", "num_input_tokens_seen", "_wandb", "_step"),
        *("log_history", "total_flos", "train_samples_per_second", "mean_token_accuracy", "iteration_of", "messages"),
        *("text", "prompt", "instruction", "content", "role", "input", "output", "response", "question", "answer"),
    }
)
"""Keys of rows of known trainers, and of data."""
_STEPS = ("global_step", "step", "train_step", "optimizer_step", "iteration", "iter", "update", "trainer/global_step")
_EPOCHS = ("epoch", "Epoch")
_LOSSES = (
    *("loss", "train_loss", "train/loss", "training_loss", "lm_loss", "train/lm_loss", "Loss", "Train Loss"),
    *("avg_loss", "train_avg_loss", "avg_train_loss", "loss_train", "trn_loss", "mean_loss"),
)
_VALIDATIONS = (
    *("eval_loss", "val_loss", "valid_loss", "validation_loss", "eval/loss", "val/loss", "dev_loss", "Val Loss"),
    *("avg_val_loss", "loss_val", "validation/loss", "valid/loss"),
)
_TOKEN_RATES = ("tokens_per_second", "tokens_per_sec", "tok_per_sec", "tokens/sec", "tokens/s", "tok/s", "tps")
_TOTALS = ("total_steps", "max_steps", "steps_total")
_PEAKS = re.compile(r"(?:peak|max)_(?:gpu_|cuda_)?(?:mem|memory)(?:_allocated)?_(?P<unit>gb|gib|mb|mib)")
_HELD_OUT = frozenset({"val", "valid", "validation", "eval", "evaluation", "dev", "test"})
_SPLITS = ("split", "phase", "mode", "stage", "type", "kind")


class DictRowParser:
    """Parser of one file's rows."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        self._emitter = emitter

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a row."""
        if not _OTHERS_OWN.isdisjoint(row) or _is_the_trainers(row):
            return
        before = text.partition("{")[0]
        step, epoch = to_count(_first(row, _STEPS)), to_number(_first(row, _EPOCHS))
        if step is None and epoch is None and before.strip():
            step, epoch = _anchored(before)
        if step is None and epoch is None:
            return
        loss, validation = _first(row, _LOSSES), _first(row, _VALIDATIONS)
        if any(str(row.get(key, "")).lower() in _HELD_OUT for key in _SPLITS):
            loss, validation = None, validation if validation is not None else loss
        if self._emitter.is_echo(step, number):
            return
        if to_number(loss) is not None or not_a_number(loss):
            yield from self._emitter.loss(
                loss, number, text, trainer="generic", step=step, epoch=epoch if step is None else None, certain=False
            )
            yield from self._measures(row, step, number)
        yield from self._emitter.eval_loss(validation, number, step=step, epoch=epoch, certain=False)

    def _measures(self, row: Row, step: int | None, number: int) -> Iterator[Event]:
        total = to_count(_first(row, _TOTALS))
        if step is not None and total and total >= step:
            yield from self._emitter.once("steps_total", total, number, certain=False)
        yield from self._emitter.measured(
            "tokens_per_second",
            to_number(_first(row, _TOKEN_RATES)),
            number,
            step=step,
            token_unit="padded",
            certain=False,
        )
        for key, value in row.items():
            match = _PEAKS.fullmatch(key.lower())
            size = to_number(value)
            if match is not None and size is not None:
                scale, unit = SIZES[match.group("unit")]
                yield from self._emitter.memory(
                    size * scale, number, unit, "allocated", step=step, phase="step", certain=False
                )


def _is_the_trainers(row: Row) -> bool:
    """Return True if it is a row of the Hugging Face Trainer, which has no step but an epoch."""
    if any(key in row for key in _STEPS):
        return False
    return ("loss" in row and ("learning_rate" in row or "grad_norm" in row)) or "eval_steps_per_second" in row


def _first(row: Row, keys: tuple[str, ...]) -> object:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _anchored(before: str) -> tuple[int | None, float | None]:
    """Return step and epoch of the words before a dictionary: `epoch 1: {...}`."""
    parsed = parse(strip_decoration(before)[1])
    if parsed is None:
        return None, None
    step, epoch = parsed.first(Concept.GLOBAL_STEP, Concept.STEP), parsed.first(Concept.EPOCH)
    return to_count(step.value) if step is not None else None, epoch.number if epoch is not None else None
