"""Loss curves of a log or state file, thinned to bounded memory, and signs of the job's end."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.history.segments import FileSegmenter
from touchline.results.imported.text import clean_line
from touchline.results.run_result import LossPoint

_MOST_POINTS = 20_000
_MOST_SIGNS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEndSign:
    """Log line that shows the course or end of a job."""

    kind: SignKind
    """Kind of sign."""
    line: int
    """Line number in the log."""
    text: str
    """The line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Losses by step."""

    train: tuple[LossPoint, ...]
    """Training losses."""
    validation: tuple[LossPoint, ...]
    """Validation losses."""


class Curve(FileSegmenter):
    """Event collector that also keeps thinned losses."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.train: dict[int, float] = {}
        self.validation: dict[int, float] = {}
        self.signs: list[JobEndSign] = []
        self._last_step = 0
        self._one_in = 1
        self._losses_seen = 0

    def feed(self, event: Event) -> None:
        """Process the next event."""
        parts = len(self.parts)
        super().feed(event)
        if len(self.parts) > parts and self.part.began != "resumed":
            # Another attempt from the beginning: what came before is not its curve.
            self.train.clear()
            self.validation.clear()
        if isinstance(event, Sign):
            self.signs.append(JobEndSign(kind=event.kind, line=event.line, text=clean_line(event.text)))
            del self.signs[:-_MOST_SIGNS]
        elif isinstance(event, Observation) and not isinstance(event.value, str):
            self._point(event)

    def _point(self, seen: Observation) -> None:
        if isinstance(seen.value, str) or seen.aggregation == "last":
            return
        if seen.name == "loss" and seen.step is not None:
            self._last_step = seen.step
            self._add_loss(seen.step, seen.value)
        elif seen.name == "eval_loss":
            step = seen.step if seen.step is not None else self._last_step
            self.validation[step] = seen.value
            if len(self.validation) > _MOST_POINTS:
                self.validation = dict(sorted(self.validation.items())[::2])

    def _add_loss(self, step: int, loss: float) -> None:
        self._losses_seen += 1
        if self._losses_seen % self._one_in:
            return
        self.train[step] = loss
        if len(self.train) > _MOST_POINTS:
            self.train = dict(sorted(self.train.items())[::2])
            self._one_in *= 2

    @property
    def curves(self) -> Curves:
        """Losses in step order."""
        return Curves(train=_points(self.train), validation=_points(self.validation))


def _points(losses: dict[int, float]) -> tuple[LossPoint, ...]:
    return tuple(LossPoint(step=step, loss=loss) for step, loss in sorted(losses.items()))
