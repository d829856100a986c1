"""Tables of metrics as files: Lightning's `metrics.csv`, and others with a column for the step and one for the loss."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from touchline.domain.observation import Event, Observation, Sign, SignKind
from touchline.evidence.generic_vocabulary import Concept, Split, meaning_of
from touchline.logtext.numbers import not_a_number, to_count, to_number

_STEP_COLUMNS = ("global_step", "step", "trainer/global_step", "iteration", "iter")
_EPOCH_COLUMNS = ("epoch",)
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
    """Events of a table of metrics, or None when it is none.

    A table has a column of steps or epochs and one of losses. Lightning counts steps from 0, and writes a row for the
    training and one for the validation of the same step, each with the other's columns empty.
    """
    text = text.replace("\0", "")
    rows = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    try:
        header = [name.strip() for name in next(rows, [])]
        if not 2 <= len(header) <= _MOST_COLUMNS:
            return None
        columns = _Columns(header)
        if columns.losses or columns.validations:
            return tuple(columns.events(rows)) if columns.step is not None or columns.epoch is not None else None
    except csv.Error:
        return None
    return None


class _Columns:
    """Which column holds what."""

    def __init__(self, header: Sequence[str]) -> None:
        plain = [name.lower() for name in header]
        self.step = next((plain.index(name) for name in _STEP_COLUMNS if name in plain), None)
        self.epoch = next((plain.index(name) for name in _EPOCH_COLUMNS if name in plain), None)
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
        """Events of the rows, each with its line."""
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
            value = next((cell for index in self.losses if (cell := _cell(row, index))), "")
            at = None if step is not None else epoch
            loss = to_number(value)
            if loss is not None:
                yield Observation(name="loss", value=loss, line=number, unit="nats", step=step, epoch=at, certain=False)
            elif not_a_number(value):
                yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=",".join(row)[:300], step=step)
            held_out = next((cell for index in self.validations if (cell := _cell(row, index))), "")
            val = to_number(held_out)
            if val is not None:
                yield Observation(
                    name="eval_loss", value=val, line=number, unit="nats", step=step, epoch=at, certain=False
                )


def _cell(row: Sequence[str], index: int | None) -> str:
    return row[index].strip() if index is not None and index < len(row) else ""
