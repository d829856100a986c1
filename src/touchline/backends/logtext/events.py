"""Interfaces of log readers, and events of a training loop without repetition: one emitter per file.

Readers are pure, one instance per file, fed in the file's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol, TypedDict, Unpack

from touchline.backends.logtext.parts import not_a_number, to_number
from touchline.core.observation import Event, Inside, Observation, ObservationName, Sign, SignKind
from touchline.core.quantity import Aggregation, MemoryKind, Phase, TokenUnit

Row = Mapping[str, object]
"""Dictionary that a line holds: a JSON object, or a Python dict as `print` writes it; values as written."""


class LogReader(Protocol):
    """Converter of lines to events. Feed it lines in order; it may use earlier lines, never later ones.

    A reader may have a property `inside`: while it is true, as within a traceback, every line is offered to it.
    """

    words: ClassVar[frozenset[str]]
    """Lower-case words, made of letters and underscores, or of any non-ASCII characters; a line is offered when it
    holds one of them as a whole word. Digits and punctuation part words: `train_loss=0.5` is `train_loss`."""

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line without escape sequences, carriage returns and its end; at most 64 KiB of it."""
        ...

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line that is, or ends in, one dictionary; `line` is called for it before."""
        ...


class DocumentReader(Protocol):
    """Reader of state files and configs: one mapping, parsed from JSON or YAML."""

    def __call__(self, name: str, document: Row) -> tuple[Event, ...] | None:
        """Return the events of a document, or None if this reader does not know it; `name` is the file's base name."""
        ...


class BarCount(Enum):
    """Unit that a trainer's progress bar counts."""

    RUN_STEPS = "optimizer steps of the run"
    EPOCH_STEPS = "optimizer steps of an epoch"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedTrainer:
    """Trainer as it appears in readings."""

    name: str
    precedence: int = 2
    """Precedence of the trainer if a log shows several: the highest counts. Wrapping programs have 3 or 4, a base that
    others build on has 1, and a library that does not identify the program has 0.
    """
    export_functions: str | None = None
    """Pattern of functions that export the trained model, next to the usual ones."""
    bar: BarCount | None = None


_TEXT_LIMIT = 300
_LARGEST_LOSS = 1e7
_SAME_EPOCH = 1e-9
_RANK_LINES = 16
"""Lines within which several ranks print the same step."""

UNITS: dict[ObservationName, str] = {
    "loss": "nats",
    "eval_loss": "nats",
    "mean_train_loss": "nats",
    "step": "steps",
    "epochs": "epochs",
    "steps_total": "steps",
    "train_examples": "examples",
    "max_seq_len": "tokens",
    "trainable_parameters": "parameters",
    "total_parameters": "parameters",
    "train_seconds": "s",
    "eval_seconds": "s",
    "step_seconds": "s",
    "save_seconds": "s",
    "train_samples_per_second": "examples/s",
    "train_steps_per_second": "steps/s",
    "tokens_per_second": "tokens/s",
}
SIZES: dict[str, tuple[float, str]] = {
    "gb": (1.0, "GB"),
    "g": (1.0, "GB"),
    "m": (1 / 1000, "GB"),
    "gib": (1.0, "GiB"),
    "mib": (1 / 1024, "GiB"),
    "mb": (1 / 1000, "GB"),
}
"""Factor and unit of a printed size. GB and MB may be decimal or binary, so they stay GB."""


class Attributes(TypedDict, total=False):
    """What an observation says next to its name, value, line and unit."""

    step: int | None
    epoch: float | None
    token_unit: TokenUnit | None
    aggregation: Aggregation | None
    inside: tuple[Inside, ...]
    certain: bool


class AttributesOfMemory(Attributes, total=False):
    """The same of a measurement of memory too."""

    phase: Phase | None
    kind: MemoryKind | None


def observed(
    name: ObservationName, value: float | str, line: int, *, unit: str | None = None, **more: Unpack[AttributesOfMemory]
) -> Observation:
    """Return what a line says, in the unit of its name where none is given."""
    return Observation(name=name, value=value, line=line, unit=unit or UNITS.get(name, "1"), **more)


def figure(
    name: ObservationName,
    value: object,
    line: int,
    *,
    unit: str | None = None,
    positive: bool = False,
    **more: Unpack[AttributesOfMemory],
) -> Iterator[Observation]:
    """Yield what a line says if it is a number, above zero where asked."""
    number = to_number(value)
    if number is not None and (number > 0 or not positive):
        yield observed(name, number, line, unit=unit, **more)


class EventEmitter:
    """Maker of events that drops those which repeat an earlier one."""

    def __init__(self) -> None:
        """Start a file."""
        self.has_trained = False
        """Whether a loss or a step was logged. Memory and learning rates have another meaning before and after."""
        self.accumulation: float | None = None
        """Forward passes per optimizer step, if known."""
        self.epoch: tuple[float, float] | None = None
        """Epochs done when the current one began, and planned epochs, if a loop counts them."""
        self.last_step: tuple[int, int] | None = None
        """The last step with a loss, and its line."""
        self._settings: dict[str, tuple[float | str, bool]] = {}
        self._epochs_done = 0.0
        self._step = 0
        self._steps: list[tuple[int, int]] = []

    def once(
        self,
        name: ObservationName,
        value: float | str | None,
        number: int,
        *,
        unit: str | None = None,
        certain: bool = True,
    ) -> Iterator[Event]:
        """Yield a setting, unless the current attempt has it already."""
        if value is None or self._settings.get(name) in ((value, certain), (value, True)):
            return
        self._settings[name] = (value, certain)
        if name == "gradient_accumulation_steps" and not isinstance(value, str):
            self.accumulation = value
        yield observed(name, value, number, unit=unit, certain=certain)

    def is_echo(self, step: int | None, number: int) -> bool:
        """Return True if another process printed this step just before the last one, so that it seems to go back."""
        if step is None:
            return False
        if step < self._step and any(step == old and number - line <= _RANK_LINES for old, line in self._steps[-2:-1]):
            return True
        if not self._steps or self._steps[-1][0] != step:
            self._steps = [*self._steps[-1:], (step, number)]
        else:
            self._steps[-1] = (step, number)
        return False

    def _goes_back(self, step: int | None, epoch: float | None) -> bool:
        """Return True if another attempt begins here, by the rule that cuts a file into segments."""
        in_epochs = epoch is not None and epoch < self._epochs_done - _SAME_EPOCH
        back = in_epochs or (step is not None and step < self._step and epoch is None)
        self._epochs_done = (epoch or 0.0) if back else max(self._epochs_done, epoch or 0.0)
        self._step = (step or 0) if back else max(self._step, step or 0)
        return back

    def loss(
        self, value: object, number: int, text: str, *, trainer: str | None = None, **more: Unpack[Attributes]
    ) -> Iterator[Event]:
        """Yield a training loss, or a sign that it is not a number; then the trainer of a new attempt."""
        step = more.get("step")
        loss = to_number(value)
        if not_a_number(value):
            self.has_trained = True
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=text.strip()[:_TEXT_LIMIT], step=step)
        elif loss is None or abs(loss) > _LARGEST_LOSS:
            return
        else:
            self.has_trained = True
            if self._goes_back(step, more.get("epoch")):
                self._settings.clear()
            if step is not None:
                self.last_step = (step, number)
            yield observed("loss", loss, number, **more)
        if trainer is not None:
            yield from self.once("trainer", trainer, number, certain=trainer != "generic")

    def at_step(self, step: int, line: int) -> Iterator[Event]:
        """Yield a step that was done, once."""
        self.has_trained = self.has_trained or step > 0
        if self._settings.get("step") != (step, True):
            self._settings["step"] = (step, True)
            yield observed("step", step, line, unit="steps", step=step)

    def eval_loss(self, value: object, number: int, **more: Unpack[Attributes]) -> Iterator[Event]:
        """Yield a validation loss."""
        loss = to_number(value)
        if loss is not None and abs(loss) <= _LARGEST_LOSS:
            yield observed("eval_loss", loss, number, **more)

    def measured(
        self,
        name: ObservationName,
        value: float | None,
        number: int,
        *,
        unit: str | None = None,
        **more: Unpack[AttributesOfMemory],
    ) -> Iterator[Event]:
        """Yield a rate, a count, a size or a duration above zero."""
        yield from figure(name, value, number, unit=unit, positive=True, **more)

    def memory(
        self,
        value: float | None,
        number: int,
        unit: str,
        kind: MemoryKind,
        *,
        phase: Phase | None = None,
        **more: Unpack[Attributes],
    ) -> Iterator[Event]:
        """Yield a peak of the GPU's memory; without a phase, that of training once a loss was logged."""
        more["aggregation"] = "peak"
        when: Phase = phase or ("step" if self.has_trained else "after_init")
        yield from self.measured("peak_memory", value, number, unit=unit, phase=when, kind=kind, **more)


def to_sign(kind: SignKind, text: str, number: int, step: int | None = None) -> Sign:
    """Return the sign that a line gives."""
    return Sign(kind=kind, line=number, text=text.strip()[:_TEXT_LIMIT], step=step)
