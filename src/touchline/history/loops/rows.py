"""Training loops of no known trainer: `Epoch 1/3 | Step 100/1000 | Loss: 1.23`, dictionaries, and bars with a loss.

A loss counts only beside the number of a step or an epoch, or below a line that names the epoch. A counter that begins
again with each epoch is made one of the run where the length of an epoch is known, and is left out where it is not.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import SIZES, EventEmitter
from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.prefixes import strip_decoration
from touchline.core.observation import Event
from touchline.history.loops.grammar import Item, Line, parse
from touchline.history.loops.vocabulary import Concept, Split

_COUNTERS = (Concept.GLOBAL_STEP, Concept.STEP)
_OTHERS_OWN = re.compile(
    r"\bwandb:|tokens_per_second_per_gpu|peak_memory_(?:active|alloc)|\d\|\d+\|Loss: |^\s*[{\"'<$]|trainable params:"
    r"|%\|"
)
"""Lines with readers of their own, and bars."""
_METRICS_BLOCK = re.compile(r"\s*[a-z_]+ += +\S+\s*")
"""`  train_loss               =     1.5507`, from the table that the Hugging Face Trainer ends with."""
_MNIST = re.compile(
    r"Train(?:ing)? Epoch: (?P<epoch>\d+)(?:/(?P<epochs>\d+))? \[(?P<done>\d+)/(?P<total>\d+) \(\s*\d+(?:\.\d+)?%\)\]"
    r"\s*(?:[A-Za-z ]{0,12})Loss: (?P<loss>\S+)"
)
_LOSS_AT = re.compile(
    r"(?P<split>train(?:ing)? |val(?:idation)? |eval(?:uation)? )?loss(?: value)?(?: \([a-z ]{1,20}\))?"
    r" (?:at|after|for|in|on) "
    r"(?P<what>step|iteration|iter|epoch) (?P<at>\d{1,12})(?:/\d+)?\s*[:=]\s*(?P<loss>[-+.\deE]+|nan)\s*$",
    re.IGNORECASE,
)
_TEST_SET = re.compile(r"(?:Test|Validation|Val|Eval) set: Average loss: (?P<loss>\d+\.\d+),")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+")
"""Thousands or a decimal comma; both look the same."""
_HELD_OUT = re.compile(
    r"\W*(?:final |overall )?(?:val(?:id(?:ation)?)?|eval(?:uation)?|test(?:ing)?|dev)(?: set)?"
    r"(?: (?:errors?|results?|metrics|summary|performance|stats))?\W*",
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
_MEASURED = frozenset({"reward", "rewards", "lr", "learning rate", "learning_rate", "grad norm", "grad_norm", "gnorm"})
"""Names of values measured during training."""
_ROUND = frozenset({"1", "2", "25", "5"})
"""Usual logging intervals in steps, trailing zeros left out."""
_MOST_BITS = 30.0
_ROUNDING = 0.02
_FULL = 0.9
"""Beyond this share of its total a counter that begins again has come to its end."""


class StepCounter:
    """Converter of counters of steps and epochs into steps of the run and epochs done."""

    def __init__(self) -> None:
        """Start a file."""
        self._first_epoch: int | None = None
        self._epoch: float | None = None
        self._last = -1
        self._per_epoch: bool | None = None
        self._from_zero = False
        self._lead: tuple[int, int] | None = None
        self._lead_offset = 0
        self._is_by_steps = False
        self.is_of_run = False
        """Whether the last step that was placed is one of the run beyond doubt."""

    def index(self, epoch: float) -> float:
        """Return the epochs done when this one begins; the first one shows whether epochs count from 0 or 1."""
        if self._first_epoch is None or epoch == 0:
            self._first_epoch = 0 if epoch < 1 else 1
        return max(0.0, epoch - self._first_epoch)

    def place(
        self, epoch: float | None, epochs: float | None, step: int, total: float | None, *, is_global: bool
    ) -> tuple[int | None, int | None, float | None]:
        """Return step of the run, planned steps and epochs done; None for what the counter does not show."""
        self._from_zero = self._from_zero or step == 0
        done = step + 1 if self._from_zero and total is not None and step == total - 1 else step
        self.is_of_run = epoch is None or is_global or epochs == 1 or epoch != int(epoch)
        if epoch is None or self.is_of_run:
            return done, int(total) if total else None, epoch if epoch is not None and epoch != int(epoch) else None
        index = self.index(epoch)
        self._learn(epoch, epochs, step, total)
        self.is_of_run = self._per_epoch is False or bool(self._per_epoch and total)
        if self._per_epoch is False:
            return done, int(total) if total else None, index
        if self._per_epoch and total:
            planned = int(total * epochs) if epochs and self._first_epoch is not None else None
            return int(index * total + done), planned, index + min(1.0, step / total)
        return done if index == 0 else None, None, index

    def place_lead(self, done: int, total: int) -> int | None:
        """Return the step of the run of a fraction without a name; None if it may count epochs or examples.

        People log every 10 or 50 steps; a counter of examples advances by multiples of the batch. One that begins again
        after its end is one of an epoch.
        """
        last, self._lead = self._lead, (done, total)
        if last is None or last[1] != total or done == last[0]:
            self._lead_offset = 0
            return None
        if done < last[0]:
            self._lead_offset = self._lead_offset + total if last[0] >= _FULL * total else 0
            return self._lead_offset + done if self._is_by_steps else None
        digits = str(done - last[0]).rstrip("0")
        self._is_by_steps = self._is_by_steps or (done - last[0] > 1 and digits in _ROUND)
        return self._lead_offset + done if self._is_by_steps else None

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


def _is_count(epoch: Item, parsed: Line) -> bool:
    """Return True if a number counts epochs, and does not say how many are planned."""
    if epoch.number is None or epoch.number > _MOST_EPOCHS:
        return False
    return not (_PLANNED.search(epoch.name) and epoch.total is None and len(parsed.items) == 1)


def _is_in_bits(parsed: Line, losses: list[Item]) -> bool:
    """Return True if a row's perplexity is 2, and not e, to the power of one of its losses."""
    values = [item.number for item in losses if item.number is not None and 0.5 < item.number < _MOST_BITS]
    perplexities = [item.number for item in parsed.items if item.name in ("ppl", "perplexity") and item.number]

    def agree(base: float) -> bool:
        pairs = itertools.product(values, perplexities)
        return any(abs(base**value - perplexity) < _ROUNDING * perplexity for value, perplexity in pairs)

    return agree(2.0) and not agree(math.e)


class LoopReader:
    """Reader of one file's loops."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        self._emitter = emitter
        self._counter = StepCounter()
        self._epoch: float | None = None
        self._epochs: float | None = None
        self._is_named_behind = False
        self._held_out: int | None = None

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line."""
        if _OTHERS_OWN.search(text) or _METRICS_BLOCK.fullmatch(text):
            return
        rest = strip_decoration(text)[1]
        if (match := _MNIST.match(rest)) is not None:
            yield from self._mnist(match, text, number)
            return
        if (match := _LOSS_AT.match(rest)) is not None:
            rest = f"{match['what']} {match['at']} {match['split'] or ''}loss {match['loss']}"
        if (match := _TEST_SET.match(rest)) is not None:
            yield from self._emitter.eval_loss(match.group("loss"), number, certain=False)
            return
        if _HELD_OUT.fullmatch(rest):
            self._held_out = number
            return
        parsed = parse(rest)
        if parsed is None or not parsed.items:
            return
        yield from self._items(parsed, text, number)

    def _items(self, parsed: Line, text: str, number: int) -> Iterator[Event]:
        epoch, counter = parsed.first(Concept.EPOCH), parsed.first(*_COUNTERS)
        batch = parsed.first(Concept.BATCH)
        if epoch is not None and not _is_count(epoch, parsed):
            return
        is_summary = epoch is not None and counter is None and batch is None and parsed.fraction is None
        if epoch is not None:
            self._begin_epoch(epoch, is_summary=is_summary)
        losses = [
            item
            for item in parsed.items
            if item.meaning.concept is Concept.LOSS and not item.unit and not _GROUPED.fullmatch(item.value)
        ]
        if _is_in_bits(parsed, losses):
            return
        if not losses:
            yield from self._without_loss(parsed, epoch, counter, number)
            return
        if epoch is None and counter is None and batch is None and parsed.lead is None:
            if parsed.fraction is None and self._is_of_block(losses, number):
                yield from self._below(losses, number)
                return
            if self._epoch is None:
                return
        if counter is not None and to_count(counter.value) is None:
            return
        training = [item for item in losses if item.split is Split.TRAIN]
        self._held_out = None
        lead = parsed.lead if training and counter is None and batch is None else None
        if lead is not None:
            step, planned, done = self._led(*lead)
        else:
            step, planned, done = self._place(counter, batch, parsed.fraction, counts_steps=epoch is not None)
        if training and self._emitter.is_echo(step, number):
            return
        yield from self._losses(training, losses, step, done, text, number)
        is_end = counter is None and batch is None and parsed.fraction is None and lead is None
        if training and is_end and self._counter.is_of_run and self._emitter.last_step is not None:
            # The mean of an epoch hides how far the steps have come.
            last, line = self._emitter.last_step
            yield from self._emitter.at_step(last, line)
        if is_summary and self._is_named_behind and self._epoch is not None:
            # The steps that follow are those of the next epoch.
            self._counter.end_epoch(self._epoch)
            self._epoch += 1
        if training or epoch is not None:
            yield from self._plan(planned, number)
            yield from self._measures(parsed, step, number)

    def _plan(self, planned: int | None, number: int) -> Iterator[Event]:
        """Yield planned epochs and steps."""
        if self._epochs and self._epochs <= _MOST_EPOCHS:
            yield from self._emitter.once("epochs", self._epochs, number, certain=False)
        if planned:
            yield from self._emitter.once("steps_total", planned, number, certain=False)

    def _is_of_block(self, losses: list[Item], number: int) -> bool:
        """Return True if a loss without any counter is none of a training's row.

        Either a line above it names other data, or steps are logged together with their losses, which this one is not.
        """
        if self._held_out is not None and self._held_out < number <= self._held_out + _BLOCK_LINES:
            return True
        plain = all(item.split is Split.TRAIN and not item.meaning.is_mean for item in losses)
        return plain and self._emitter.last_step is not None

    def _below(self, losses: list[Item], number: int) -> Iterator[Event]:
        """Yield the loss of a block of held-out data, below the line that names the data."""
        is_named = self._held_out is not None and number <= self._held_out + _BLOCK_LINES
        held_out = [item for item in losses if item.meaning.split is not Split.TRAIN]
        if is_named and held_out:
            done = None if self._epoch is None or self._epoch != int(self._epoch) else self._counter.index(self._epoch)
            yield from self._emitter.eval_loss(
                held_out[0].value, number, epoch=None if done is None else done + 1, certain=False
            )

    def _led(self, done: float, total: float) -> tuple[int | None, int | None, float | None]:
        """Return the place of a row that begins with a fraction without a name: `[10/500] loss: 0.5`."""
        step = self._counter.place_lead(int(done), int(total)) if total > 0 else None
        if self._epoch is None:
            self._counter.is_of_run = step is not None
            return step, int(total) if step is not None else None, None
        placed = self._place(None, None, (done, total))
        return placed if step is not None else (None, None, placed[2])

    def _begin_epoch(self, epoch: Item, *, is_summary: bool) -> None:
        if is_summary and self._epoch is None and self._emitter.last_step is not None:
            self._is_named_behind = True
        self._epoch, self._epochs = epoch.number, epoch.total or self._epochs
        self._emitter.epoch = (self._counter.index(epoch.number or 0.0), self._epochs or 0.0)

    def _without_loss(self, parsed: Line, epoch: Item | None, counter: Item | None, number: int) -> Iterator[Event]:
        """Yield epochs of a header, and steps of a row with other measurements of a training."""
        if epoch is not None and epoch.total and epoch.split is Split.TRAIN and epoch.total <= _MOST_EPOCHS:
            yield from self._emitter.once("epochs", epoch.total, number, certain=False)
        named = {item.name for item in parsed.items}
        if self._emitter.has_losses or _MEASURED.isdisjoint(named):
            return
        step, planned, _ = self._place(counter, None, parsed.fraction)
        if step and (parsed.fraction is not None or (counter is not None and counter.total)):
            yield from self._emitter.at_step(step, number)
            yield from self._plan(planned, number)

    def _place(
        self,
        counter: Item | None,
        batch: Item | None,
        fraction: tuple[float, float] | None,
        *,
        counts_steps: bool = True,
    ) -> tuple[int | None, int | None, float | None]:
        """Return step of the run, planned steps, and epochs done.

        `counts_steps` is whether a fraction without a name may be one of iterations: behind an epoch it is, and behind
        a loss it counts examples as often (`loss: 2.3 [6400/60000]`).
        """
        if counter is not None:
            step = to_count(counter.value) or 0
            is_global = counter.meaning.concept is Concept.GLOBAL_STEP
            found = self._counter.place(self._epoch, self._epochs, step, counter.total, is_global=is_global)
            if is_global or self._epoch is None or not (self._emitter.accumulation or 1) > 1:
                return found
            # Steps of an epoch may be forward passes there.
            return None, None, found[2]
        if self._epoch is None:
            return None, None, None
        index = self._counter.index(self._epoch)
        if self._epoch != int(self._epoch):
            return None, None, self._epoch
        if batch is None and fraction is None:
            return None, None, index + 1
        done, total = (
            fraction if batch is None and fraction else (batch.number if batch else None, batch and batch.total)
        )
        share = min(1.0, (done or 0.0) / total) if total else 0.0
        if batch is None and total and counts_steps and not (self._emitter.accumulation or 1) > 1:
            # `Epoch:[1/3](200/5000)`: iterations, which are steps where nothing says that gradients are accumulated.
            planned = int(total * self._epochs) if self._epochs else None
            return int(index * total + (done or 0)), planned, index + share
        return None, None, index + share

    def _losses(
        self, training: list[Item], losses: list[Item], step: int | None, done: float | None, text: str, number: int
    ) -> Iterator[Event]:
        if training:
            # A mean stands in only where the line has no loss of its own.
            # and one that is named after its objective where there is no plain one.
            best = min(training, key=lambda item: (item.meaning.is_objective, item.meaning.is_mean))
            value = "nan" if best.number is None else best.value
            yield from self._emitter.loss(
                value,
                number,
                text,
                trainer="generic",
                step=step,
                epoch=done,
                aggregation="mean" if best.meaning.is_mean else None,
                certain=False,
            )
        held_out = [item for item in losses if item.split is Split.VALIDATION]
        if not held_out and training:
            held_out = [item for item in losses if item.split is Split.TEST]
        if held_out:
            yield from self._emitter.eval_loss(held_out[0].value, number, step=step, epoch=done, certain=False)

    def _measures(self, parsed: Line, step: int | None, number: int) -> Iterator[Event]:
        for item in parsed.items:
            value = item.number
            match item.meaning.concept:
                case Concept.TOKEN_RATE if value is not None:
                    scale = {"k": 1e3, "m": 1e6}.get(item.unit, 1.0)
                    yield from self._emitter.measured(
                        "tokens_per_second",
                        value * scale,
                        number,
                        step=step,
                        token_unit="padded",
                        certain=False,
                    )
                case Concept.STEP_TIME if value is not None:
                    scale = 1e-3 if item.unit.startswith("ms") else 1.0
                    yield from self._emitter.measured("step_seconds", value * scale, number, step=step, certain=False)
                case Concept.PEAK_ALLOCATED | Concept.PEAK_RESERVED if value is not None and item.unit in SIZES:
                    scale, unit = SIZES[item.unit]
                    kind = "reserved" if item.meaning.concept is Concept.PEAK_RESERVED else "allocated"
                    yield from self._emitter.memory(
                        value * scale,
                        number,
                        unit,
                        "reserved" if kind == "reserved" else "allocated",
                        step=step,
                        phase="step",
                        certain=False,
                    )
                case _:
                    pass

    def _mnist(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """Yield the events of `Train Epoch: 1 [640/60000 (1%)] Loss: 2.3`, whose counter is one of examples."""
        done, total = int(match.group("done")), int(match.group("total"))
        if not total:
            return
        epoch = self._counter.index(float(match.group("epoch"))) + min(1.0, done / total)
        yield from self._emitter.loss(match.group("loss"), number, text, trainer="generic", epoch=epoch, certain=False)
        if done < total:
            yield from self._emitter.once("train_examples", total, number, certain=False)
        if match.group("epochs"):
            yield from self._emitter.once(
                "epochs", to_number(match.group("epochs")), number, unit="epochs", certain=False
            )
