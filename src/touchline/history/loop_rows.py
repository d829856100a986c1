"""Training loops of no known trainer: `Epoch 1/3 | Step 100/1000 | Loss: 1.23`.

A loss counts only next to the number of a step or an epoch, or below a line that names the epoch. A counter that begins
again with each epoch is made one of the run where the length of an epoch is known, and is left out where it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from touchline.backends.logtext.events import SIZES, EventEmitter
from touchline.backends.logtext.parts import strip_decoration, to_count, to_number
from touchline.backends.logtext.vocabulary import Concept, Split
from touchline.core.observation import Event
from touchline.history.loop_facts import Item, Line, parse

_OTHERS_OWN = re.compile(
    r"\bwandb:|tokens_per_second_per_gpu|peak_memory_(?:active|alloc)|\d\|\d+\|Loss: |^\s*[{\"'<$]|trainable params:"
    r"|%\||\bnll_loss\b"
)
"""Lines with readers of their own, bars, and rows of losses in bits."""
_METRICS_BLOCK = re.compile(r"\s*[a-z_]+ += +\S+\s*")
"""`  train_loss               =     1.5507`, from the table that the Hugging Face Trainer ends with."""
_OF_EXAMPLES = re.compile(
    r"Train(?:ing)? Epoch: (?P<epoch>\d+)(?:/(?P<epochs>\d+))? \[(?P<done>\d+)/(?P<total>\d+) \(\s*\d+(?:\.\d+)?%\)\]"
    r"\s*(?:[A-Za-z ]{0,12})Loss: (?P<loss>\S+)"
)
_TEST_SET = re.compile(r"(?:Test|Validation|Val|Eval) set: Average loss: (?P<loss>\d+\.\d+),")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+")
"""Thousands or a decimal comma; both look the same."""
_HELD_OUT = re.compile(
    r"\W*(?:final |overall )?(?:val(?:id(?:ation)?)?|eval(?:uation)?|test(?:ing)?|dev)(?: set)?"
    r"(?: (?:errors?|results?|metrics|summary))?\W*",
    re.IGNORECASE,
)
"""A line that names the data which the lines below it are of: `Test Error:`, `Evaluation results:`."""
HELD_OUT_WORDS = frozenset({"evaluation", "validation", "test", "eval"})
"""Words of such lines."""
_BLOCK_LINES = 8
"""Lines below such a line that may belong to it."""
_MOST_EPOCHS = 100_000
_PLANNED = re.compile(r"^(?:num|number|n|max|total|train)[ _].*|^epochs$")
"""Names of how many epochs are planned."""


class Place(NamedTuple):
    """Place of a row in its run; None for what its counters do not show."""

    step: int | None = None
    planned: int | None = None
    epochs_done: float | None = None


class StepCounter:
    """Converter of counters of steps and epochs into steps of the run and epochs done."""

    def __init__(self) -> None:
        self._first_epoch: int | None = None
        self._epoch: float | None = None
        self._last = -1
        self._per_epoch: bool | None = None
        self._from_zero = False
        self.is_of_run = False
        """Whether the last step that was placed is one of the run beyond doubt."""

    def index(self, epoch: float) -> float:
        """Return the epochs done when this one begins; the first one shows whether epochs count from 0 or 1."""
        if self._first_epoch is None or epoch == 0:
            self._first_epoch = 0 if epoch < 1 else 1
        return max(0.0, epoch - self._first_epoch)

    def place(
        self, epoch: float | None, epochs: float | None, step: int, total: float | None, *, is_global: bool
    ) -> Place:
        """Return the place of a row with a counter of steps."""
        self._from_zero = self._from_zero or step == 0
        done = step + 1 if self._from_zero and total is not None and step == total - 1 else step
        planned = int(total) if total else None
        self.is_of_run = epoch is None or is_global or epochs == 1 or epoch != int(epoch)
        if epoch is None or self.is_of_run:
            return Place(done, planned, epoch if epoch is not None and epoch != int(epoch) else None)
        index = self.index(epoch)
        self._learn(epoch, epochs, step, total)
        self.is_of_run = self._per_epoch is False or bool(self._per_epoch and total)
        if self._per_epoch is False:
            return Place(done, planned, index)
        if self._per_epoch and total:
            return Place(
                int(index * total + done), int(total * epochs) if epochs else None, index + min(1.0, step / total)
            )
        return Place(done if index == 0 else None, None, index)

    def end_epoch(self, epoch: float) -> None:
        """Learn that the steps so far were those of an epoch that is named only behind them."""
        self.index(epoch)
        self._epoch = epoch

    def _learn(self, epoch: float, epochs: float | None, step: int, total: float | None) -> None:
        """Learn whether steps begin again with each epoch."""
        if self._epoch is not None and epoch == self._epoch + 1:
            self._per_epoch = step <= self._last
        elif self._epoch is not None and epoch < self._epoch:
            self._per_epoch = None
        if self._per_epoch is None and total and epochs and epochs > 1:
            beyond = step > total / epochs * (self.index(epoch) + 1) * 1.05 + 1
            self._per_epoch = True if beyond else None
        self._epoch, self._last = epoch, step


class LoopReader:
    """Reader of one file's loops."""

    def __init__(self, emitter: EventEmitter) -> None:
        self._emitter = emitter
        self._counter = StepCounter()
        self._epoch: float | None = None
        self._epochs: float | None = None
        self._is_named_behind = self._has_passes = False
        self._block = -_BLOCK_LINES

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line."""
        if _OTHERS_OWN.search(text) or _METRICS_BLOCK.fullmatch(text):
            return
        rest = strip_decoration(text)[1]
        if (match := _OF_EXAMPLES.match(rest)) is not None:
            yield from self._of_examples(match, text, number)
        elif (match := _TEST_SET.match(rest)) is not None:
            yield from self._emitter.eval_loss(match["loss"], number, certain=False)
        elif _HELD_OUT.fullmatch(rest):
            self._block = number
        elif (parsed := parse(rest)) is not None and parsed.items:
            yield from self._items(parsed, text, number)

    def _items(self, parsed: Line, text: str, number: int) -> Iterator[Event]:
        epoch, batch = parsed.first(Concept.EPOCH), parsed.first(Concept.BATCH)
        counters = [item for item in parsed.items if item.meaning.concept in (Concept.GLOBAL_STEP, Concept.STEP)]
        # Where both are counted, an iteration is a forward pass.
        self._has_passes = self._has_passes or len({"iter" in item.name for item in counters}) > 1
        counters = [item for item in counters if not (self._has_passes and "iter" in item.name)]
        counter = min(counters, key=lambda item: item.meaning.concept is Concept.STEP, default=None)
        if (epoch is not None and not _is_count(epoch, parsed)) or (
            counter is not None and to_count(counter.value) is None
        ):
            return
        is_summary = counter is None and batch is None and parsed.fraction is None
        if epoch is not None:
            self._begin_epoch(epoch, is_summary=is_summary)
        losses = [
            item
            for item in parsed.items
            if item.meaning.concept is Concept.LOSS and not item.unit and not _GROUPED.fullmatch(item.value)
        ]
        training = [item for item in losses if item.split is Split.TRAIN]
        if not losses:
            if epoch is not None and epoch.total and epoch.split is Split.TRAIN:
                yield from self._emitter.once("epochs", epoch.total, number, certain=False)
            return
        if epoch is None and is_summary:
            if number <= self._block + _BLOCK_LINES:
                yield from self._below(losses, number)
                return
            steps_have_losses = self._emitter.last_step is not None
            plain = all(item in training and not item.meaning.is_mean for item in losses)
            if self._epoch is None or (plain and steps_have_losses):
                return
        place = self._place(counter, batch, epoch, parsed)
        if training and self._emitter.is_echo(place.step, number):
            return
        yield from self._losses(training, losses, place, text, number)
        if training and is_summary and self._counter.is_of_run and self._emitter.last_step is not None:
            # The mean of an epoch hides how far the steps have come.
            yield from self._emitter.at_step(*self._emitter.last_step)
        if epoch is not None and is_summary and self._is_named_behind and self._epoch is not None:
            # The steps that follow are those of the next epoch.
            self._counter.end_epoch(self._epoch)
            self._epoch += 1
        if training or epoch is not None:
            yield from self._emitter.once("epochs", self._epochs, number, certain=False)
            yield from self._emitter.once("steps_total", place.planned, number, certain=False)
            yield from self._measures(parsed, place.step, number)

    def _below(self, losses: list[Item], number: int) -> Iterator[Event]:
        """Yield the loss of a block of held-out data, below the line that names the data."""
        held_out = next((item.value for item in losses if item.meaning.split is not Split.TRAIN), None)
        done = None if self._epoch is None or self._epoch != int(self._epoch) else self._counter.index(self._epoch) + 1
        yield from self._emitter.eval_loss(held_out, number, epoch=done, certain=False)

    def _begin_epoch(self, epoch: Item, *, is_summary: bool) -> None:
        if is_summary and self._epoch is None and self._emitter.last_step is not None:
            self._is_named_behind = True
        planned = epoch.total if epoch.total and epoch.total <= _MOST_EPOCHS else None
        self._epoch, self._epochs = epoch.number, planned or self._epochs
        self._emitter.epoch = (self._counter.index(epoch.number or 0.0), self._epochs or 0.0)

    def _place(self, counter: Item | None, batch: Item | None, epoch: Item | None, parsed: Line) -> Place:
        """Return the place of a row.

        A fraction without a name may be one of iterations behind an epoch; behind a loss it counts examples as often
        (`loss: 2.3 [6400/60000]`).
        """
        if counter is not None:
            step, is_global = to_count(counter.value) or 0, counter.meaning.concept is Concept.GLOBAL_STEP
            found = self._counter.place(self._epoch, self._epochs, step, counter.total, is_global=is_global)
            if is_global or self._epoch is None or not self._accumulates:
                return found
            # Steps of an epoch may be forward passes there.
            return Place(epochs_done=found.epochs_done)
        if self._epoch is None:
            return Place()
        if self._epoch != int(self._epoch):
            return Place(epochs_done=self._epoch)
        if batch is not None:
            return self._within_epoch(self._epoch, batch.number or 0.0, batch.total, counts_steps=False)
        if parsed.fraction is not None:
            return self._within_epoch(self._epoch, *parsed.fraction, counts_steps=epoch is not None)
        return Place(epochs_done=self._counter.index(self._epoch) + 1)

    def _within_epoch(self, epoch: float, done: float, total: float | None, *, counts_steps: bool) -> Place:
        index = self._counter.index(epoch)
        share = min(1.0, done / total) if total else 0.0
        if not total or not counts_steps or self._accumulates:
            return Place(epochs_done=index + share)
        # `Epoch:[1/3](200/5000)`: iterations, which are steps where nothing says that gradients are accumulated.
        return Place(int(index * total + done), int(total * self._epochs) if self._epochs else None, index + share)

    @property
    def _accumulates(self) -> bool:
        return (self._emitter.accumulation or 1) > 1

    def _losses(
        self, training: list[Item], losses: list[Item], place: Place, text: str, number: int
    ) -> Iterator[Event]:
        step, done = place.step, place.epochs_done
        if training:
            # A mean stands in only where the line has no loss of its own, and so does one named after its objective.
            best = min(training, key=lambda item: (item.meaning.is_objective, item.meaning.is_mean))
            yield from self._emitter.loss(
                "nan" if best.number is None else best.value,
                number,
                text,
                trainer="generic",
                step=step,
                epoch=done,
                aggregation="mean" if best.meaning.is_mean else None,
                certain=False,
            )
        held_out = [item for item in losses if item.split is Split.VALIDATION]
        if training and not held_out:
            held_out = [item for item in losses if item.split is Split.TEST]
        if held_out:
            yield from self._emitter.eval_loss(held_out[0].value, number, step=step, epoch=done, certain=False)

    def _measures(self, parsed: Line, step: int | None, number: int) -> Iterator[Event]:
        for item in parsed.items:
            value, concept = item.number or 0.0, item.meaning.concept
            if concept is Concept.TOKEN_RATE:
                value *= {"k": 1e3, "m": 1e6}.get(item.unit, 1.0)
                yield from self._emitter.measured(
                    "tokens_per_second", value, number, step=step, token_unit="padded", certain=False
                )
            elif concept is Concept.STEP_TIME:
                value *= 1e-3 if item.unit.startswith("ms") else 1.0
                yield from self._emitter.measured("step_seconds", value, number, step=step, certain=False)
            elif concept in (Concept.PEAK_ALLOCATED, Concept.PEAK_RESERVED) and item.unit in SIZES:
                scale, unit = SIZES[item.unit]
                yield from self._emitter.memory(
                    value * scale,
                    number,
                    unit,
                    "reserved" if concept is Concept.PEAK_RESERVED else "allocated",
                    step=step,
                    phase="step",
                    certain=False,
                )

    def _of_examples(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """Yield the events of `Train Epoch: 1 [640/60000 (1%)] Loss: 2.3`, whose counter is one of examples."""
        done, total = int(match["done"]), int(match["total"])
        if not total:
            return
        epoch = self._counter.index(float(match["epoch"])) + min(1.0, done / total)
        yield from self._emitter.loss(match["loss"], number, text, trainer="generic", epoch=epoch, certain=False)
        if done < total:
            yield from self._emitter.once("train_examples", total, number, certain=False)
        yield from self._emitter.once("epochs", to_number(match["epochs"]), number, certain=False)


def _is_count(epoch: Item, parsed: Line) -> bool:
    """Return True if a number counts epochs, and does not say how many are planned."""
    if epoch.number is None or epoch.number > _MOST_EPOCHS:
        return False
    return not (_PLANNED.search(epoch.name) and epoch.total is None and parsed.first(Concept.LOSS) is None)
