"""Dictionaries that training loops print or write as JSON lines: `{"step": 10, "loss": 2.3, "tokens_per_second": 9}`.

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
from touchline.history.loops.vocabulary import Concept, Split, meaning_of

_OTHERS_OWN = frozenset(
    {
        *("event", "current_steps", "global_step/max_steps", "train_speed(iter/s)", "train_speed(s/it)", "memory(GiB)"),
        *("train_runtime", "eval_runtime", "eval_samples_per_second", "num_input_tokens_seen", "_wandb", "_step"),
        *("log_history", "total_flos", "train_samples_per_second", "mean_token_accuracy", "iteration_of", "messages"),
        *("text", "prompt", "instruction", "content", "role", "input", "output", "response", "question", "answer"),
    }
)
"""Keys of rows of known trainers, and of data."""
_TOTALS = ("total_steps", "max_steps", "steps_total")
_PEAKS = re.compile(r"(?:peak|max)_(?:gpu_|cuda_)?(?:mem|memory)(?:_allocated)?_(?P<unit>gb|gib|mb|mib)")
_SPLITS = ("split", "phase", "mode", "stage", "type", "kind")


class DictRowParser:
    """Parser of one file's rows."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        self._emitter = emitter

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a row."""
        if not _OTHERS_OWN.isdisjoint(row):
            return
        found = _by_concept(row)
        step, epoch = to_count(found.get(Concept.STEP)), to_number(found.get(Concept.EPOCH))
        if step is None and _is_the_trainers(row):
            return
        if step is None and epoch is None:
            step, epoch = _anchored(text.partition("{")[0])
        if (step is None and epoch is None) or self._emitter.is_echo(step, number):
            return
        loss, validation = found.get(Split.TRAIN), found.get(Split.VALIDATION)
        if any(meaning_of(str(row.get(key, ""))).split in (Split.VALIDATION, Split.TEST) for key in _SPLITS):
            loss, validation = None, loss if validation is None else validation
        if to_number(loss) is not None or not_a_number(loss):
            at = epoch if step is None else None
            yield from self._emitter.loss(loss, number, text, trainer="generic", step=step, epoch=at, certain=False)
            yield from self._measures(row, found, step, number)
        yield from self._emitter.eval_loss(validation, number, step=step, epoch=epoch, certain=False)

    def _measures(
        self, row: Row, found: dict[Concept | Split, object], step: int | None, number: int
    ) -> Iterator[Event]:
        total = next((count for key in _TOTALS if (count := to_count(row.get(key)))), None)
        if step is not None and total and total >= step:
            yield from self._emitter.once("steps_total", total, number, certain=False)
        rate = to_number(found.get(Concept.TOKEN_RATE))
        yield from self._emitter.measured(
            "tokens_per_second", rate, number, step=step, token_unit="padded", certain=False
        )
        for key, value in row.items():
            match, size = _PEAKS.fullmatch(key.lower()), to_number(value)
            if match is not None and size is not None:
                scale, unit = SIZES[match["unit"]]
                yield from self._emitter.memory(
                    size * scale, number, unit, "allocated", step=step, phase="step", certain=False
                )


def _by_concept(row: Row) -> dict[Concept | Split, object]:
    """Return the values by what their keys mean, losses by their data; of two the plain loss or the first counts."""
    found: dict[Concept | Split, object] = {}
    for key, value in sorted(row.items(), key=lambda entry: meaning_of(entry[0]).is_mean):
        meaning = meaning_of(key)
        concept = Concept.STEP if meaning.concept is Concept.GLOBAL_STEP else meaning.concept
        if concept is not None and value is not None:
            found.setdefault((meaning.split or Split.TRAIN) if concept is Concept.LOSS else concept, value)
    return found


def _is_the_trainers(row: Row) -> bool:
    """Return True if it is a row of the Hugging Face Trainer, which has no step but an epoch."""
    return ("loss" in row and ("learning_rate" in row or "grad_norm" in row)) or "eval_steps_per_second" in row


def _anchored(before: str) -> tuple[int | None, float | None]:
    """Return step and epoch of the words before a dictionary: `epoch 1: {...}`."""
    parsed = parse(strip_decoration(before)[1])
    if parsed is None:
        return None, None
    step, epoch = parsed.first(Concept.GLOBAL_STEP, Concept.STEP), parsed.first(Concept.EPOCH)
    return to_count(step.value) if step is not None else None, epoch.number if epoch is not None else None
