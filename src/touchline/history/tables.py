"""Tables of metrics as files: `metrics.csv` and others with a column for the step and one for the loss."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from touchline.backends.logtext.numbers import not_a_number, to_count, to_number
from touchline.core.json_text import parse_json
from touchline.core.observation import Event, Observation, Sign, SignKind, Stamp
from touchline.history.loops.vocabulary import Concept, Split, meaning_of

_STEP_COLUMNS = ("train/global_step", "global_step", "step", "trainer/global_step", "iteration", "iter", "_step")
_EPOCH_COLUMNS = ("epoch", "train/epoch")
_CLOCK_COLUMNS = ("_runtime", "_timestamp", "relative time (process)", "wall time")
"""Columns of seconds since a fixed moment."""
_CHART = re.compile(r".* - (?P<key>[^-]+)")
"""A column of a chart that W&B exports: `run's name - train/loss`, with two more for its bounds."""
_BOUNDS = ("__min", "__max")
_HEADER = re.compile(
    r"(?=[^\n]*(?:step|iter|epoch))(?=[^\n]*loss)(?:[a-z_/]{1,30}[,\t]){1,40}[a-z_/]{1,30}\r?\n\s*-?[\d.]",
    re.IGNORECASE,
)
_SUFFIXES = ("_step", "_epoch")
_MOST_COLUMNS = 1000
_MOST_ROWS = 1_000_000


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


def begins_exported_rows(text: str) -> bool:
    """Return True if a file begins with a row of W&B's history as a line of JSON."""
    first = text.lstrip().partition("\n")[0]
    return first.startswith("{") and '"_step"' in first and ('"_runtime"' in first or '"_timestamp"' in first)


def read_exported_rows(text: str) -> tuple[Event, ...] | None:
    """Return the events of rows of W&B's history, one per line; other lines are skipped."""
    rows: list[object] = []
    for line in text.splitlines():
        try:
            row = parse_json(line) if line.strip() else {}
        except (ValueError, RecursionError):
            row = {}
        rows.append(row if isinstance(row, dict) else {})
    # A table has its header on the first line.
    return _rows(rows, first=1)


def read_metrics_rows(data: object) -> tuple[Event, ...] | None:
    """Return the events of a table of metrics as JSON, a list of rows or a mapping of columns; None for others."""
    if isinstance(data, dict) and data and all(isinstance(column, dict) for column in data.values()):
        keys = list(dict.fromkeys(key for column in data.values() for key in column))[:_MOST_ROWS]
        data = [{name: column.get(key) for name, column in data.items()} for key in keys]
    # Which line of the file an entry stands on is not known: places name the file alone.
    return _rows(data, first=None)


def _rows(data: object, first: int | None) -> tuple[Event, ...] | None:
    if not isinstance(data, list) or not data or not all(isinstance(row, dict) for row in data):
        return None
    header = list(dict.fromkeys(str(name) for row in data for name in row))
    return _events(header, ([_text(row.get(name)) for name in header] for row in data), first=first)


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _events(header: list[str], rows: Iterator[list[str]], *, first: int | None = 2) -> tuple[Event, ...] | None:
    if not 2 <= len(header) <= _MOST_COLUMNS:
        return None
    columns = _Columns(header)
    if (columns.losses or columns.validations) and (columns.step is not None or columns.epoch is not None):
        return tuple(columns.events(rows, first))
    return None


class _Columns:
    """Columns by what they hold."""

    def __init__(self, header: Sequence[str]) -> None:
        plain = [_key(name.lower()) for name in header]
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

    def events(self, rows: Iterator[list[str]], first: int | None) -> Iterator[Event]:
        """Yield the events of the rows, with lines counted from that of the first; 0 if lines are not known."""
        offset: int | None = None
        last = 0
        for index, row in enumerate(rows):
            number = 0 if first is None else first + index
            step = to_count(_cell(row, self.step))
            epoch = to_number(_cell(row, self.epoch))
            if step is None and epoch is None:
                continue
            if step is not None:
                # The first row of a count from 0 stands one before a whole number of intervals.
                offset = (1 if (step + 1) % 5 == 0 else 0) if offset is None else offset
                step += offset
                last = max(last, step)
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
        if last and first is None:
            # Without lines nothing else shows how far it came.
            yield Observation(name="step", value=last, line=0, unit="steps", aggregation="last", certain=False)


def _key(name: str) -> str:
    """Return the key of a column; a chart's has the run's name before it. The bounds of another column have none."""
    chart = _CHART.fullmatch(name)
    return "" if name.endswith(_BOUNDS) else name if chart is None else chart["key"].strip()


def _cell(row: Sequence[str], index: int | None) -> str:
    return row[index].strip() if index is not None and index < len(row) else ""
