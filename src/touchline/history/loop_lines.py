"""Reader of training loops: trainers that only print rows, loops of no known trainer, facts that scripts print.

The parts are tried in order, so that a line is read once: a trainer's own form first, then bars, loops, facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from touchline.backends.logtext.events import SIZES, EventEmitter, Row
from touchline.backends.logtext.parts import not_a_number, strip_decoration, to_count, to_number
from touchline.backends.logtext.vocabulary import EPOCH_WORDS, LOSS_WORDS, Concept, Split, meaning_of
from touchline.backends.registry import form_readers
from touchline.core.observation import Event
from touchline.history.file_segment import is_training_label
from touchline.history.loop_facts import WORDS as FACT_WORDS
from touchline.history.loop_facts import FactReader, parse
from touchline.history.loop_rows import HELD_OUT_WORDS, LoopReader

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


_POSTFIX = re.compile(
    r"\[(?:\d+ days?, )?[\d:]{4,11}(?:<(?:[\d:?]{1,11}|\d+ days?, [\d:]+))?, *"
    r"(?P<rest>[^\]]*=[^\]]*|[^\]]*loss[^\]]*)\]",
    re.IGNORECASE,
)
_PAIR = re.compile(r"(?P<key>[A-Za-z_][\w/ .-]*?) *[=:] *(?P<value>[^,\s=]+)(?=,|\s|$)")
_CLOCK = re.compile(r"\[[\d:]{4,11}<[^\]]*\]")
_LABEL_LENGTH = 200
_READ_ELSEWHERE = re.compile(r"\d\|\d+\|Loss:")


class LossBarReader:
    """Reader of one file's bars with losses."""

    def __init__(self, emitter: EventEmitter) -> None:
        self._emitter = emitter

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line with bars; of several on one line the last one counts."""
        if _READ_ELSEWHERE.search(text):
            return
        matches = list(_POSTFIX.finditer(text))
        label = _label(text, matches[-1].start() if matches else len(text))
        if is_training_label(label) is False:
            return
        pairs = _PAIR.finditer(matches[-1]["rest"]) if matches else ()
        losses = {
            meaning.split or Split.TRAIN: pair["value"]
            for pair in pairs
            if (meaning := meaning_of(pair["key"])).concept is Concept.LOSS
        }
        if Split.TRAIN in losses:
            yield from self._emitter.loss(losses[Split.TRAIN], number, text[-400:], trainer="generic", certain=False)
        yield from self._emitter.eval_loss(losses.get(Split.VALIDATION), number, certain=False)
        yield from self._labelled(label, text, number)

    def _labelled(self, label: str, text: str, number: int) -> Iterator[Event]:
        """Yield a loss and the planned epochs that the label names."""
        parsed = parse(strip_decoration(label)[1]) if label else None
        if parsed is None:
            return
        loss, epoch = parsed.first(Concept.LOSS), parsed.first(Concept.EPOCH)
        if loss is not None and not loss.unit and loss.split is Split.TRAIN:
            yield from self._emitter.loss(loss.value, number, text[-400:], trainer="generic", certain=False)
        if epoch is not None and epoch.total and self._emitter.has_trained:
            yield from self._emitter.once("epochs", epoch.total, number, certain=False)


def _label(text: str, end: int) -> str:
    """Return the text before the last bar that begins before `end`."""
    cut = text.rfind("%|", 0, end)
    if cut < 0:
        return ""
    before = text[max(0, cut - _LABEL_LENGTH) : cut].rstrip("0123456789.").rstrip(" ")
    others = list(_CLOCK.finditer(before))
    return (before[others[-1].end() :] if others else before).removesuffix(":").strip()


_LONG = 4096
_BEHIND_A_BAR = re.compile(r".*(?:it/s|s/it)[^\]%]{0,200}\](?P<rest>[^\]%|]{12,})$")


class TrainingLines:
    """Reader of one file's lines of trainers and loops without a reader of their own."""

    words: ClassVar[frozenset[str]] = (
        LOSS_WORDS
        | EPOCH_WORDS
        | HELD_OUT_WORDS
        | FACT_WORDS
        | frozenset(word for reader in form_readers() for word in reader.words)
    )

    def __init__(self) -> None:
        self._emitter = EventEmitter()
        self._forms = tuple(made(self._emitter) for made in form_readers())
        self._bars = LossBarReader(self._emitter)
        self._loops = LoopReader(self._emitter)
        self._rows = DictRowParser(self._emitter)
        self._facts = FactReader(self._emitter)
        self._rank: str | None = None

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line."""
        if text[:1] == "{" and text.rstrip().endswith("}"):
            return ()  # a dictionary, read as a row
        rank, rest = strip_decoration(text) if len(text) < _LONG else ("", text)
        if rank and "loss" in text.lower():
            # Of several processes that print the same, the first one counts.
            if self._emitter.has_trained and rank != (self._rank or rank):
                return ()
            self._rank = rank
        for reader in self._forms:
            events = reader.line(text, rest, number)
            if events is not None:
                return events
        if "%|" in text or "it [" in text:
            events = list(self._bars.line(text, number))
            behind = _BEHIND_A_BAR.search(text)
            # What follows a bar on its line was printed by something else.
            return events if behind is None else [*events, *self.line(behind["rest"], number)]
        return list(self._loops.line(text, number)) or list(self._facts.line(text, number))

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return the events of a dictionary."""
        return self._rows.row(row, text, number)
