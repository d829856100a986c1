"""What readers of loops tell, kept free of repetition: one voice a file, shared by all that read its loops."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.logtext.numbers import not_a_number, to_number
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.core.quantity import Aggregation, MemoryKind, Phase, TokenUnit

_TEXT_LIMIT = 300
_HUGE = 1e7
"""A number beyond it is no loss that anybody trained with."""
_SAME = 1e-9
_RANK_LINES = 16
"""So close together several ranks print the same step."""


class Voice:
    """Makes events and remembers what was said already."""

    def __init__(self) -> None:
        """Nothing was said."""
        self.has_trained = False
        """Whether a loss was logged: memory and learning rates mean something else before and after."""
        self.has_losses = False
        """Whether a loss was logged; `has_trained` may come from a step that was told without one."""
        self.accumulation: float | None = None
        """Forward passes per optimizer step, where a line said so."""
        self.epoch: tuple[float, float] | None = None
        """Epochs done when the present one began, and planned ones, where a loop counts them."""
        self.last_step: tuple[int, int] | None = None
        """The last step with a loss, and its line."""
        self._told: dict[str, tuple[float | str, bool]] = {}
        self._epochs_done = 0.0
        self._step = 0
        self._steps: list[tuple[int, int]] = []

    def once(
        self, name: ObservationName, value: float | str | None, number: int, *, unit: str = "1", certain: bool = True
    ) -> Iterator[Event]:
        """A setting, told again only when it changes or another attempt begins."""
        if value is None or self._told.get(name) in ((value, certain), (value, True)):
            return
        self._told[name] = (value, certain)
        if name == "gradient_accumulation_steps" and not isinstance(value, str):
            self.accumulation = value
        yield Observation(name=name, value=value, line=number, unit=unit, certain=certain)

    def is_echo(self, step: int | None, number: int) -> bool:
        """Whether another process printed this step just before the last one, so that it would seem to go back."""
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
        """Whether another attempt begins here, as the course of the file sees it."""
        in_epochs = epoch is not None and epoch < self._epochs_done - _SAME
        back = in_epochs or (step is not None and step < self._step and epoch is None)
        self._epochs_done = (epoch or 0.0) if back else max(self._epochs_done, epoch or 0.0)
        self._step = (step or 0) if back else max(self._step, step or 0)
        return back

    def loss(
        self,
        value: object,
        number: int,
        text: str,
        *,
        trainer: str | None = None,
        step: int | None = None,
        epoch: float | None = None,
        aggregation: Aggregation | None = None,
        certain: bool = True,
    ) -> Iterator[Event]:
        """A training loss, or the sign that it is no number; then the trainer, which may belong to a new attempt."""
        loss = to_number(value)
        if not_a_number(value):
            self.has_trained = self.has_losses = True
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=text.strip()[:_TEXT_LIMIT], step=step)
        elif loss is None or abs(loss) > _HUGE:
            return
        else:
            self.has_trained = self.has_losses = True
            if self._goes_back(step, epoch):
                self._told.clear()
            if step is not None:
                self.last_step = (step, number)
            yield Observation(
                name="loss",
                value=loss,
                line=number,
                unit="nats",
                step=step,
                epoch=epoch,
                aggregation=aggregation,
                certain=certain,
            )
        if trainer is not None:
            yield from self.once("trainer", trainer, number, certain=trainer != "generic")

    def at_step(self, step: int, line: int) -> Iterator[Event]:
        """A step that was done, told once."""
        self.has_trained = self.has_trained or step > 0
        if self._told.get("step") != (step, True):
            self._told["step"] = (step, True)
            yield Observation(name="step", value=step, line=line, unit="steps", step=step)

    def eval_loss(
        self, value: object, number: int, *, step: int | None = None, epoch: float | None = None, certain: bool = True
    ) -> Iterator[Event]:
        """A validation loss."""
        loss = to_number(value)
        if loss is not None and abs(loss) <= _HUGE:
            yield Observation(
                name="eval_loss", value=loss, line=number, unit="nats", step=step, epoch=epoch, certain=certain
            )

    def measured(
        self,
        name: ObservationName,
        value: float | None,
        number: int,
        unit: str,
        *,
        step: int | None = None,
        aggregation: Aggregation | None = None,
        token_unit: TokenUnit | None = None,
        certain: bool = True,
    ) -> Iterator[Event]:
        """A rate or a duration above zero."""
        if value is not None and value > 0:
            yield Observation(
                name=name,
                value=value,
                line=number,
                unit=unit,
                step=step,
                aggregation=aggregation,
                token_unit=token_unit,
                certain=certain,
            )

    def memory(
        self,
        value: float | None,
        number: int,
        unit: str,
        kind: MemoryKind,
        *,
        step: int | None = None,
        phase: Phase | None = None,
        certain: bool = True,
    ) -> Iterator[Event]:
        """A peak of the GPU's memory; without a phase it is of the training once a loss was logged."""
        if value is None or value <= 0:
            return
        when: Phase = phase or ("step" if self.has_trained else "after_init")
        yield Observation(
            name="peak_memory",
            value=value,
            line=number,
            unit=unit,
            step=step,
            phase=when,
            kind=kind,
            aggregation="peak",
            certain=certain,
        )


def trained(text: str, number: int) -> Sign:
    """The trainer's own word that the training is over."""
    return Sign(kind=SignKind.TRAINED, line=number, text=text.strip()[:_TEXT_LIMIT])


SIZES: dict[str, tuple[float, str]] = {
    "gb": (1.0, "GB"),
    "g": (1.0, "GB"),
    "m": (1 / 1000, "GB"),
    "gib": (1.0, "GiB"),
    "mib": (1 / 1024, "GiB"),
    "mb": (1 / 1000, "GB"),
}
"""Factor and unit of a printed size; nobody knows which bytes GB and MB are, so they stay GB."""
