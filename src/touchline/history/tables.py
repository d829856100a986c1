"""Tables of metrics as files: `metrics.csv` and others with a column for the step and one for the loss."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from touchline.backends.logtext.numbers import not_a_number, to_count, to_number
from touchline.core.observation import Event, Observation, Sign, SignKind, Stamp
from touchline.history.loops.vocabulary import Concept, Split, meaning_of

_STEP_COLUMNS = ("train/global_step", "global_step", "step", "trainer/global_step", "iteration", "iter", "_step")
_EPOCH_COLUMNS = ("epoch", "train/epoch")
_CLOCK_COLUMNS = ("_runtime", "_timestamp", "relative time (process)", "wall time")
"""Columns of seconds since a fixed moment."""
_HEADER = re.compile(
    r"(?=[^\n]*(?:step|iter|epoch))(?=[^\n]*loss)(?:[a-z_/]{1,30}[,\t]){1,40}[a-z_/]{1,30}\r?\n\s*-?[\d.]",
    re.IGNORECASE,
)
_SUFFIXES = ("_step", "_epoch")
_MOST_COLUMNS = 1000


def begins_table(text: str) -> bool:
    """Return True if a file's first line is the header of a table of metrics: `step,loss`, with commas or tabs."""
    return _HEADER.match(text) is not None


def read_metrics_table(text: str) -> tuple[Event, ...] | None:
    """Return the events of a table of metrics; None for any other text.

    A table has a column of steps or epochs and one of losses. Some loggers count steps from 0, and write a row for
    the training and one for the validation of the same step, each with the other's columns empty.
    """
    text = text.lstrip("\ufeff").replace("\0", "")
    rows = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    try:
        return _events([name.strip() for name in next(rows, [])], rows)
    except csv.Error:
        return None


def _events(header: list[str], rows: Iterator[list[str]]) -> tuple[Event, ...] | None:
    if not 2 <= len(header) <= _MOST_COLUMNS:
        return None
    columns = _Columns(header)
    if (columns.losses or columns.validations) and (columns.step is not None or columns.epoch is not None):
        return tuple(columns.events(rows))
    return None


class _Columns:
    """Columns by what they hold."""

    def __init__(self, header: Sequence[str]) -> None:
        plain = [name.lower() for name in header]
        self.step = next((plain.index(name) for name in _STEP_COLUMNS if name in plain), None)
        self.epoch = next((plain.index(name) for name in _EPOCH_COLUMNS if name in plain), None)
        self.clock = next((plain.index(name) for name in _CLOCK_COLUMNS if name in plain), None)
        self.losses: list[int] = []
        self.validations: list[int] = []
        for index, name in enumerate(plain):
            bare = next((name.removesuffix(each) for each in _SUFFIXES if name.endswith(each)), name)
            meaning = meaning_of(bare)
            if meaning.concept is not Concept.LOSS or index in (self.step, self.epoch):
                continue
            if meaning.split is Split.VALIDATION:
                self.validations.append(index)
            elif meaning.split is not Split.TEST:
                self.losses.append(index)
        # The mean of an epoch is no last loss, where the losses of steps have a column of their own.
        of_steps = [index for index in self.losses if not plain[index].endswith("_epoch")]
        self.losses = of_steps or self.losses

    def events(self, rows: Iterator[list[str]]) -> Iterator[Event]:
        """Yield the events of the rows below the header."""
        offset: int | None = None
        for number, row in enumerate(rows, 2):
            step = to_count(_cell(row, self.step))
            epoch = to_number(_cell(row, self.epoch))
            if step is None and epoch is None:
                continue
            if step is not None:
                # The first row of a count from 0 stands one before a whole number of intervals.
                offset = (1 if (step + 1) % 5 == 0 else 0) if offset is None else offset
                step += offset
            seconds = to_number(_cell(row, self.clock))
            if seconds is not None:
                yield Stamp(seconds, number)
            value = next((cell for column in self.losses if (cell := _cell(row, column))), "")
            at = None if step is not None else epoch
            loss = to_number(value)
            if loss is not None:
                yield Observation(name="loss", value=loss, line=number, unit="nats", step=step, epoch=at, certain=False)
            elif not_a_number(value):
                yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=",".join(row)[:300], step=step)
            held_out = next((cell for column in self.validations if (cell := _cell(row, column))), "")
            val = to_number(held_out)
            if val is not None:
                yield Observation(
                    name="eval_loss", value=val, line=number, unit="nats", step=step, epoch=at, certain=False
                )


def _cell(row: Sequence[str], index: int | None) -> str:
    return row[index].strip() if index is not None and index < len(row) else ""
