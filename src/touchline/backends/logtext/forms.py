"""Lines of a trainer as a table: a pattern for each form, and what its numbers measure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, get_args

from touchline.backends.logtext.events import Attributes, EventEmitter, to_sign
from touchline.backends.logtext.parts import NUMBER, to_number
from touchline.core.observation import Event, ObservationName, SignKind
from touchline.core.quantity import Aggregation, MemoryKind, Phase

VALUE = rf"(?:{NUMBER}|(?i:nan|-?inf))"
_NAMES: frozenset[str] = frozenset(get_args(ObservationName))
_SETTINGS: frozenset[ObservationName] = frozenset(
    {"epochs", "steps_total", "micro_batch_size", "global_batch_size", "max_seq_len"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Number of a form, and what it measures."""

    name: ObservationName
    unit: str | None = None
    """Unit; None for the usual one of the name."""
    scale: float = 1.0
    """Factor from the printed number to the unit."""
    phase: Phase | None = None
    """Phase of a memory measurement. None if the earlier lines determine it."""
    kind: MemoryKind | None = None
    aggregation: Aggregation | None = None
    certain: bool = True
    """False if other trainers print the number with another meaning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """Kind of line that a trainer prints.

    A group of the pattern that is named like an observation gives that observation. `step` and `epoch` are the place of
    the other numbers; a row without a loss gives its step alone.
    """

    hint: str
    """Text that every such line holds; tested before the pattern."""
    pattern: re.Pattern[str]
    after_prefix: bool = False
    """Whether the pattern must match at the start of the line without its logger's prefix."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Figures of other groups, and of the names in `rest`. The first found counts of several with one name and kind."""
    pairs: re.Pattern[str] | None = None
    """Pattern that finds each `name` and `value` in the group `rest`."""
    sign: SignKind | None = None
    names_trainer: bool = False
    """Whether the line is one of a training, and names the trainer, without a loss too."""


class FormReader:
    """Reader of the forms of one trainer. Lines that other processes repeat are left out."""

    trainer: ClassVar[str]
    """Name of the trainer in readings."""
    words: ClassVar[frozenset[str]]
    """Words of the lines, as in `LogReader`."""
    forms: ClassVar[tuple[Form, ...]]
    """The forms, in the order in which they are tried."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        self.emitter = emitter
        self._rank: str | None = None

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Return the events of a line, or None if no form matches."""
        for form in self.forms:
            if form.hint in text:
                match = form.pattern.match(rest) if form.after_prefix else form.pattern.search(text)
                if match is not None:
                    return list(self.events(form, match, text, number))
        return None

    def events(self, form: Form, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line that matches a form."""
        found = self.values(form, match)
        groups = match.groupdict()
        step = _step(groups.get("step") or _first(found, "step"))
        if self._is_of_another_rank(groups.get("rank")) or (
            _first(found, "loss") is not None and self.emitter.is_echo(step, number)
        ):
            return
        yield from self.row(form, found, text, number, step=step, epoch=to_number(groups.get("epoch")))
        if form.sign is not None:
            yield to_sign(form.sign, text, number)

    def values(self, form: Form, match: re.Match[str]) -> list[tuple[Figure, str]]:
        """Return the figures of a line with their text, the loss first."""
        texts = {name: value for name, value in match.groupdict().items() if value is not None}
        if form.pairs is not None:
            for pair in form.pairs.finditer(match.group("rest")):
                texts.setdefault(pair["name"].strip(), pair["value"])
        known = {key: form.figures[key] for key in form.figures if key in texts}
        known |= {
            key: Figure(name=key)  # type: ignore[arg-type]
            for key in texts
            if key in _NAMES and key not in ("step", "epoch") and key not in known
        }
        found: dict[tuple[str, str | None], tuple[Figure, str]] = {}
        for key, figure in known.items():
            found.setdefault((figure.name, figure.kind), (figure, texts[key]))
        return sorted(found.values(), key=lambda each: each[0].name != "loss")

    def row(
        self,
        form: Form,
        found: list[tuple[Figure, str]],
        text: str,
        number: int,
        *,
        step: int | None,
        epoch: float | None = None,
    ) -> Iterator[Event]:
        """Yield the events of a line's figures."""
        names = {figure.name for figure, _ in found}
        if form.names_trainer and "loss" not in names:
            yield from self.emitter.once("trainer", self.trainer, number)
        is_of_training = form.names_trainer or "eval_loss" not in names
        if step and is_of_training and "loss" not in names:
            yield from self.emitter.at_step(step, number)
        for figure, value in found:
            if figure.name == "loss":
                place = Attributes(step=step, epoch=epoch, aggregation=figure.aggregation, certain=figure.certain)
                yield from self.emitter.loss(value, number, text, trainer=self.trainer, **place)
            else:
                yield from self._figure(figure, value, number, step)

    def _figure(self, figure: Figure, text: str, number: int, step: int | None) -> Iterator[Event]:
        value, name, unit = (to_number(text) or 0.0) * figure.scale, figure.name, figure.unit
        more = Attributes(step=step, certain=figure.certain)
        if name == "eval_loss":
            yield from self.emitter.eval_loss(text, number, **more)
        elif value <= 0 or name == "step":
            return
        elif figure.kind is not None:
            yield from self.emitter.memory(value, number, unit or "GiB", figure.kind, phase=figure.phase, **more)
        elif name in _SETTINGS:
            yield from self.emitter.once(name, value, number, unit=unit, certain=figure.certain)
        elif step != 0:
            more |= Attributes(aggregation=figure.aggregation)
            yield from self.emitter.measured(name, value, number, unit=unit, **more)

    def _is_of_another_rank(self, rank: str | None) -> bool:
        """Return True for a row of another process than the first one that printed such a row."""
        self._rank = self._rank or rank
        return rank is not None and rank != self._rank


def memory(kind: MemoryKind, unit: str, *, scale: float = 1.0, phase: Phase | None = "step") -> Figure:
    """Return a figure of peak memory."""
    return Figure(name="peak_memory", kind=kind, unit=unit, scale=scale, phase=phase)


def _first(found: list[tuple[Figure, str]], name: ObservationName) -> str | None:
    return next((text for figure, text in found if figure.name == name), None)


def _step(text: str | None) -> int | None:
    value = to_number(text)
    return None if value is None or value != int(value) else int(value)
