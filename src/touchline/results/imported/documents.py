"""Configs, state files and job scripts beside a run's logs, and the loss curves of a log or state file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.files import open_regular
from touchline.core.json_text import parse_json
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.experiment.document import parse
from touchline.history.file_segment import SegmentStart
from touchline.history.grouping import role_of
from touchline.history.readers import documents
from touchline.history.segments import FileSegmenter
from touchline.results.imported.folders import CHECKPOINT
from touchline.results.imported.text import clean_line
from touchline.results.run_result import LossPoint
from touchline.slurm.resources import read_sbatch

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
        if len(self.parts) > parts and self.part.began is not SegmentStart.RESUMED:
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


_CONFIG_LIMIT_BYTES = 1 << 20
_STATE_LIMIT_BYTES = 256 << 20
_STATE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SideFile:
    """File beside the logs."""

    path: Path
    """Its path."""
    data: dict[str, object]
    """Parsed content; empty for a script."""
    curve: Curve
    """Events that it reports of the run."""


def read_documents(paths: Sequence[Path]) -> tuple[list[SideFile], list[tuple[Path, str]]]:
    """Read side files; return those read, and (path, reason) of the others. Only the newest trainer state is read."""
    states = [path for path in paths if path.name == _STATE]
    own = [path for path in states if CHECKPOINT.fullmatch(path.parent.name) is None]
    kept = set((own or states)[-1:])
    found: list[SideFile] = []
    problems: list[tuple[Path, str]] = []
    for path in paths:
        if path.name == _STATE and path not in kept:
            continue
        try:
            found.append(_read(path))
        except InputError as fault:
            messages = [fault.message, *(finding.message for finding in fault.findings)]
            problems.append((path, "; ".join(dict.fromkeys(messages))[:300]))
        except (ValueError, RecursionError) as fault:
            problems.append((path, f"no JSON: {fault}"[:300]))
        except OSError as fault:
            problems.append((path, fault.strerror or "it cannot be read"))
    return found, problems


def _read(path: Path) -> SideFile:
    curve = Curve(path.name)
    is_json = path.suffix.lower() == ".json"
    with open_regular(path) as stream:
        limit = _STATE_LIMIT_BYTES if is_json else _CONFIG_LIMIT_BYTES
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"larger than {limit >> 20} MiB")
    text = raw.decode("utf-8-sig", "replace")
    data: object = {}
    if role_of(path) == "script":
        for event in read_sbatch(text):
            curve.feed(event)
    elif is_json:
        data = parse_json(text)
    elif role_of(path) == "document":
        data = parse(text, path.name).data
    known = data if isinstance(data, dict) else {}
    for event in _events(path.name, known):
        curve.feed(event)
    return SideFile(path=path, data=known, curve=curve)


def _events(name: str, data: dict[str, object]) -> Iterator[Event]:
    for reader in documents() if data else ():
        events = reader(name, data)
        if events is not None:
            yield from events
            return
