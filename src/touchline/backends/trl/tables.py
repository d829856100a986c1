"""The Trainer's last row in other shapes: a table of metrics, a dictionary of one key a line, a table of a notebook.

Source: transformers.trainer_pt_utils.log_metrics, transformers.utils.notebook, pprint and json.dumps of the metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.numbers import to_count, to_number, to_seconds
from touchline.backends.trl.rows import INSIDE, TEXT, mean_loss, rates
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
            seconds = _seconds(runtime)
            if seconds is not None and seconds > 0:
                yield Observation(name="train_seconds", value=seconds, line=at, unit="s", epoch=epoch, inside=INSIDE)
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
            loss = to_number(values["eval_loss"])
            if loss is not None:
                line = self._found["eval_loss"][1]
                yield Observation(name="eval_loss", value=loss, line=line, unit="nats", epoch=epoch)

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
        yield Observation(name="steps_total", value=total, line=number, unit="steps")
        yield Observation(name="step", value=done, line=number, unit="steps")
        yield Observation(name="epochs", value=int(found["epochs"]), line=number, unit="epochs")
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
        loss = to_number(cells[1])
        if loss is not None:
            yield Observation(name="loss", value=loss, line=number, unit="nats", step=step, epoch=epoch)
        if len(self._columns) > 2 and self._columns[2] == "Validation Loss" and len(cells) > 2:
            loss = to_number(cells[2])
            if loss is not None:
                yield Observation(name="eval_loss", value=loss, line=number, unit="nats", step=step, epoch=epoch)


def _seconds(value: str) -> float | None:
    """Return seconds from the table's `0:50:01.40` or a dictionary's number."""
    clock = to_seconds(value) if ":" in value else None
    return clock if clock is not None else to_number(value)
