"""The course of one file: its events in order, cut into segments where an attempt, a resume or another run begins.

Everything is held in bounded memory: of each kind of observation the first and the last, of losses number and sum.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from touchline.domain.observation import Event, Observation, ObservationName, Progress, Sign, SignKind, Stamp
from touchline.evidence.tracks import Track, is_training_label, label_key

KEPT = 200
"""Of each name so many first and so many last observations are kept; of signs as well."""
CLOCK_BACK_SECONDS = 3600.0
"""A clock that jumps back further belongs to another execution, not to a corrected clock."""
T = TypeVar("T")


class Kept(Generic[T]):
    """The first and the last of many."""

    __slots__ = ("_first", "_last", "count")

    def __init__(self) -> None:
        """Nothing yet."""
        self._first: list[T] = []
        self._last: deque[T] = deque(maxlen=KEPT)
        self.count = 0

    def add(self, value: T) -> None:
        """Take one more."""
        self.count += 1
        if self.count <= KEPT:
            self._first.append(value)
        else:
            self._last.append(value)

    def all(self) -> list[T]:
        """Those that were kept, in order."""
        return [*self._first, *self._last]


@dataclass(slots=True)
class Losses:
    """Training losses as they were logged."""

    count: int = 0
    """Rows with a finite loss."""
    total: float = 0.0
    """Their sum."""
    last: Observation | None = None
    """The last one."""
    first: Observation | None = None
    """The first one."""
    second: Observation | None = None
    """The second one: with the first it tells how often losses are logged."""

    def add(self, loss: Observation) -> None:
        """Take one more."""
        if isinstance(loss.value, str) or (self.last is not None and self.last.certain and not loss.certain):
            return
        if self.last is not None and loss.certain and not self.last.certain:
            # A trainer's own rows count more than what a script prints beside them.
            self.count, self.total, self.first, self.second = 0, 0.0, None, None
        self.count += 1
        self.total += loss.value
        self.last = loss
        if self.first is None:
            self.first = loss
        elif self.second is None:
            self.second = loss


@dataclass(slots=True)
class Part:
    """What one file says of one segment."""

    file: str
    """The file's name."""
    began: str = "fresh"
    """`fresh`, `resumed`, `restarted`, `another run`."""
    first_line: int = 0
    """Its first event."""
    last_line: int = 0
    """Its last event."""
    progress_line: int = 0
    """The last line that shows a training step."""
    seen: dict[ObservationName, Kept[Observation]] = field(default_factory=dict)
    """Observations by name, losses among them."""
    losses: Losses = field(default_factory=Losses)
    """Training losses."""
    tracks: list[Track] = field(default_factory=list)
    """Progress bars, in order of their beginning."""
    open_tracks: dict[tuple[str, int | None], Track] = field(default_factory=dict)
    """The one of each label and total that was drawn last."""
    clock: Track = field(default_factory=lambda: Track(label="rows", total=None))
    """Steps against time from rows that tell both: elapsed time, or a time stamp."""
    signs: Kept[Sign] = field(default_factory=Kept)
    """Signs, in order."""
    kinds: set[SignKind] = field(default_factory=set)
    """Their kinds."""
    stamps: tuple[Stamp, Stamp] | None = None
    """The first and the last time on its lines."""
    nan_step: int | None = None
    """Step of the last loss that was no number."""
    trained_line: int = 0
    """Line on which the training was said to be over; 0 for none."""

    @property
    def has_progress(self) -> bool:
        """Whether anything of it shows a training step."""
        return self.progress_line > 0

    @property
    def has_evidence(self) -> bool:
        """Whether it says anything of a training at all."""
        return bool(self.seen or self.kinds) or self.has_progress

    def get(self, name: ObservationName) -> list[Observation]:
        """The observations of a name that were kept."""
        kept = self.seen.get(name)
        return kept.all() if kept is not None else []


_MOST_TRACKS = 4096


class Course:
    """Takes a file's events in order and cuts them into parts."""

    def __init__(self, file: str) -> None:
        """Begin a file."""
        self.file = file
        self.parts = [Part(file)]
        self._epoch = 0.0
        self._step = 0

    @property
    def part(self) -> Part:
        """The part that goes on."""
        return self.parts[-1]

    def feed(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Observation):
            self._observation(event)
        elif isinstance(event, Sign):
            self._sign(event)
        else:
            self._stamp(event)
        part = self.part
        part.first_line = part.first_line or event.line
        part.last_line = max(part.last_line, event.line)

    # ------------------------------------------------------------------------------------------------ where to cut

    def _cut(self, began: str) -> None:
        """Begin another part."""
        self.parts.append(Part(self.file, began=began))
        self._epoch = 0.0
        self._step = 0

    def _again(self) -> str:
        """How a training begins after one that has shown progress."""
        return "another run" if self.part.trained_line else "restarted"

    def _progress(self, bar: Progress) -> None:
        if bar.elapsed_seconds is None:
            return
        key = (label_key(bar.label), bar.total)
        track = self.part.open_tracks.get(key)
        if track is not None and bar.done < track.last[0]:
            longest = max(found.last[1] for found in self.part.tracks)
            restarted = not track.complete and track.last[1] >= longest and bar.elapsed_seconds < track.last[1]
            if restarted and is_training_label(bar.label) is not False:
                self._cut(self._again())
            track = None
        if track is None:
            if len(self.part.tracks) >= _MOST_TRACKS:
                return
            track = Track(label=bar.label, total=bar.total)
            self.part.tracks.append(track)
            self.part.open_tracks[key] = track
        track.add(bar.done, bar.elapsed_seconds, bar.line)
        if is_training_label(bar.label):
            self.part.progress_line = bar.line

    def _observation(self, found: Observation) -> None:
        if found.name == "loss" and found.aggregation != "last":
            self._loss(found)
        elif found.name == "epoch":
            self._step = 0  # counters may begin again with each epoch
        elif found.name == "trainable_parameters" and self.part.trained_line and self.part.has_progress:
            # The next model is made ready after a training that is over.
            self._cut("another run")
        part = self.part
        if found.name == "train_seconds" and found.step is not None and not isinstance(found.value, str):
            part.clock.add(found.step, found.value, found.line)
        part.seen.setdefault(found.name, Kept()).add(found)

    def _loss(self, loss: Observation) -> None:
        back_in_epochs = loss.epoch is not None and loss.epoch < self._epoch - 1e-9
        back_in_steps = loss.step is not None and loss.step < self._step
        if loss.epoch is not None and loss.step is not None and loss.epoch > self._epoch:
            back_in_steps = False  # loops that count the steps of each epoch from the start
        if back_in_epochs or (back_in_steps and loss.epoch is None):
            self._cut(self._again())
        elif self.part.trained_line and loss.line > self.part.trained_line and self._is_further(loss):
            self._cut("another run")
        self._epoch = max(self._epoch, loss.epoch or 0.0)
        self._step = max(self._step, loss.step or 0)
        part = self.part
        part.losses.add(loss)
        part.progress_line = loss.line
        if loss.step is not None and part.stamps is not None and part.stamps[1].line == loss.line:
            part.clock.add(loss.step, part.stamps[1].unix - part.stamps[0].unix, loss.line)

    def _is_further(self, loss: Observation) -> bool:
        """Whether a loss after the end belongs to another training: a summary repeats the last step."""
        return (loss.epoch is not None and loss.epoch > 0 and loss.epoch < self._epoch) or (
            loss.step is not None and 0 < loss.step < self._step
        )

    def _sign(self, sign: Sign) -> None:
        if sign.kind is SignKind.REQUEUED:
            # The words belong to the attempt that ends; what follows them is the next one.
            self._keep(sign)
            if self.part.has_progress:
                self._cut("restarted")
            return
        if sign.kind in (SignKind.START, SignKind.RESUMED) and self.part.has_progress:
            self._cut("resumed" if sign.kind is SignKind.RESUMED else self._again())
        if sign.kind is SignKind.RESUMED:
            self.part.began = "resumed"
        if sign.kind is SignKind.TRAINED:
            self.part.trained_line = sign.line
        if sign.kind is SignKind.NOT_A_NUMBER:
            self.part.progress_line = max(self.part.progress_line, sign.line)
            self.part.nan_step = sign.step or self.part.nan_step
        self._keep(sign)

    def _keep(self, sign: Sign) -> None:
        self.part.signs.add(sign)
        self.part.kinds.add(sign.kind)

    def _stamp(self, stamp: Stamp) -> None:
        known = self.part.stamps
        if known is not None and stamp.unix < known[1].unix - CLOCK_BACK_SECONDS:
            self._cut("another run")
            known = None
        self.part.stamps = (known[0], stamp) if known is not None else (stamp, stamp)
