"""View of one run: its segments, and access to their numbers and texts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from touchline.backends.registry import logged_trainers
from touchline.core.observation import Observation, ObservationName, Sign
from touchline.core.quantity import Missing, Quantity
from touchline.history.file_segment import FileSegment, SegmentStart, Track, is_training_label
from touchline.history.reading import OptionalText, SourcedText
from touchline.history.run_facts import DTYPES, STATED

GUESS = "guessed from a line that any program could print"
"""Mark of a value from a line that is not a trainer's own."""

_BUILDER = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")
"""A trainer's word for a model of a size."""
_VENDORS = frozenset({"nvidia", "amd", "tesla", "geforce"})


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedObservation:
    """An observation and the file that it stands in."""

    seen: Observation
    file: str
    is_stated: bool = False
    """Whether the user stated it, and no file of the run."""

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.seen.line}" if self.seen.line else self.file

    @property
    def number(self) -> float | None:
        """Value, if it is a number."""
        return None if isinstance(self.seen.value, str) else self.seen.value

    @property
    def provenance(self) -> str | None:
        """Provenance, if it is not a trainer's own line."""
        return STATED if self.is_stated else None if self.seen.certain else GUESS

    def quantity(self, **changes: object) -> Quantity:
        """Return the observation as a Quantity; `changes` replace its members."""
        seen = self.seen
        value = self.number
        assert value is not None
        inside = ", ".join(seen.inside)
        known: dict[str, object] = {
            "value": value,
            "unit": seen.unit,
            "phase": seen.phase,
            "kind": seen.kind,
            "token_unit": seen.token_unit,
            "aggregation": seen.aggregation,
            "method": ", ".join(part for part in (f"{inside} inside" if inside else "", self.provenance or "") if part)
            or None,
            "where": self.where,
        }
        return Quantity(**{**known, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSegment:
    """Segment of a run: the parts of its files that belong together."""

    parts: tuple[FileSegment, ...]
    """At most one a file."""

    @property
    def began(self) -> SegmentStart:
        """Beginning of the segment, by the file that shows most."""
        known = [part.began for part in self.parts]
        ordered = (SegmentStart.ANOTHER_RUN, SegmentStart.RESUMED, SegmentStart.RESTARTED)
        return next((start for start in ordered if start in known), SegmentStart.FRESH)

    @property
    def has_progress(self) -> bool:
        """Return True if any file shows a training step."""
        return any(part.has_progress for part in self.parts)

    def all(self, name: ObservationName) -> list[SourcedObservation]:
        """Return the observations of a name, file by file, in order."""
        return [SourcedObservation(seen=seen, file=part.file) for part in self.parts for seen in part.get(name)]

    def signs(self) -> list[tuple[Sign, FileSegment]]:
        """Return the signs, each with its part."""
        return [(sign, part) for part in self.parts for sign in part.signs.all()]

    def last_loss(self) -> SourcedObservation | None:
        """Return the last training loss."""
        found = [
            SourcedObservation(seen=part.losses.last, file=part.file)
            for part in self.parts
            if part.losses.last is not None
        ]
        return max(found, key=lambda each: (each.seen.epoch or 0.0, each.seen.step or 0), default=None)

    def training_tracks(self, total: int | None) -> list[tuple[Track, FileSegment]]:
        """Return the bars that count training steps: the labelled ones, else the unlabelled one that took longest."""
        tracks = [(track, part) for part in self.parts for track in part.tracks if not track.is_evaluation]
        said = [each for each in tracks if is_training_label(each[0].label)]
        bare = [each for each in tracks if is_training_label(each[0].label) is None]
        if total is not None and (exact := [each for each in (*bare, *said) if each[0].total == total]):
            return exact
        if said:
            return said
        if not bare:
            return []
        longest = max(bare, key=lambda each: each[0].last[1])
        return [each for each in bare if each[0].total == longest[0].total and each[1] is longest[1]]


NO_SEGMENT = RunSegment(parts=())
"""Nothing at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """Run: its segments in order, the last of which counts, and the documents next to its logs."""

    segments: tuple[RunSegment, ...]
    documents: RunSegment
    """State files and configs, one part each."""
    stated: RunSegment = NO_SEGMENT
    """Facts that the user stated, one part per file or flag; the last one counts."""

    @property
    def final(self) -> RunSegment:
        """Segment that counts."""
        return self.segments[-1]

    def setting(self, name: ObservationName) -> SourcedObservation | None:
        """Return what the run is: the last segment first, then the others, configs, what was stated, and guesses."""
        found = self._read(name)
        certain = next((each for each in found if each.seen.certain), None)
        if name == "model" and certain is not None:
            # The folder of the weights names the model that a builder's name leaves open.
            value = certain.seen.value
            certain = next((each for each in found if refines(name, _last_part(each.seen.value), value)), certain)
        stated = self.stated_fact(name)
        if certain is not None and (stated is None or not refines(name, stated.seen.value, certain.seen.value)):
            return certain
        return stated or (found[0] if found else None)

    def stated_fact(self, name: ObservationName) -> SourcedObservation | None:
        """Return what the user stated."""
        stated = self.stated.all(name)
        return dataclasses.replace(stated[-1], is_stated=True) if stated else None

    def contradicted(self, name: ObservationName) -> tuple[SourcedObservation, SourcedObservation] | None:
        """Return what was stated and what a file of the run says, where they differ."""
        stated = self.stated_fact(name)
        certain = next((each for each in self._read(name) if each.seen.certain), None)
        if stated is None or certain is None or agree(name, stated.seen.value, certain.seen.value):
            return None
        return stated, certain

    def _read(self, name: ObservationName) -> list[SourcedObservation]:
        sources = [*reversed(self.segments), self.documents]
        return [each for source in sources for each in reversed(source.all(name))]

    def measured(self, name: ObservationName) -> list[SourcedObservation]:
        """Return the measurements of the last segment, else those of the state files; the last one is last."""
        return self.final.all(name) or self.documents.all(name)

    def count(self, name: ObservationName, reason: str, unit: str = "1") -> Quantity | Missing:
        """Return a setting that is a number."""
        found = self.setting(name)
        if found is None or found.number is None:
            return Missing(missing=reason)
        return found.quantity(unit=unit if found.seen.unit == "1" else found.seen.unit)

    def word(self, name: ObservationName, reason: str) -> OptionalText:
        """Return a setting that is a text."""
        found = self.setting(name)
        if found is None:
            return Missing(missing=reason)
        return SourcedText(value=str(found.seen.value), where=found.where, method=found.provenance)


def agree(name: ObservationName, stated: float | str, read: float | str) -> bool:
    """Return True if what was stated and what was read are of one thing: `A100-80GB`, `NVIDIA A100-SXM4-80GB`."""
    if not isinstance(stated, str) or not isinstance(read, str):
        return stated == read
    if refines(name, stated, read):
        return True
    if name == "gpu":
        return _words(stated) <= _words(read) or _plain(stated) in _plain(read)
    if name in ("model", "dataset"):
        return _plain(str(_last_part(stated))) == _plain(str(_last_part(read)))
    if name == "dtype":
        return DTYPES.get(stated, stated) == DTYPES.get(read.lower().removeprefix("torch."), read)
    if name == "target_modules":
        return set(re.findall(r"\w+", stated)) == set(re.findall(r"\w+", read))
    return _plain(stated) == _plain(read)


def refines(name: ObservationName, stated: float | str, read: float | str) -> bool:
    """Return True if what was stated says the same as what was read, and more of it.

    `A100` is a GPU of one of two memories, and `llama3_2_1b` a trainer's word for all models of that size.
    """
    if not isinstance(stated, str) or not isinstance(read, str):
        return False
    if name == "gpu":
        return _words(read) < _words(stated)
    if name == "trainer":
        return is_library(read) and not is_library(stated)
    is_word = [_BUILDER.fullmatch(each) is not None for each in (stated, read)]
    return name == "model" and is_word == [False, True] and _plain(read) in _plain(stated)


def is_library(trainer: str) -> bool:
    """Return True for a library on which programs are built, or any loop: the trainer itself may be another one."""
    known = logged_trainers().get(trainer)
    return trainer == "generic" or (known is not None and known.precedence == 0)


def _last_part(path: float | str) -> float | str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] if isinstance(path, str) else path


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower())) - _VENDORS


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def align(courses: Sequence[Sequence[FileSegment]]) -> list[RunSegment]:
    """Return the parts of several files of one run side by side, counted from the end: all have the last attempt."""
    rows = max((len(parts) for parts in courses), default=0)
    segments = []
    for index in range(rows, 0, -1):
        segments.append(RunSegment(parts=tuple(parts[-index] for parts in courses if len(parts) >= index)))
    return segments


def runs_of(segments: Iterable[RunSegment]) -> list[list[RunSegment]]:
    """Group segments that are attempts at one run; another run begins a new list."""
    runs: list[list[RunSegment]] = []
    for segment in segments:
        if not runs or segment.began is SegmentStart.ANOTHER_RUN or _differs(runs[-1][-1], segment):
            runs.append([segment])
        else:
            runs[-1].append(segment)
    return runs


def _differs(before: RunSegment, after: RunSegment) -> bool:
    for name in ("model", "trainable_parameters"):
        old = [each.seen.value for each in before.all(name) if each.seen.certain]
        new = [each.seen.value for each in after.all(name) if each.seen.certain]
        if old and new and old[-1] != new[-1]:
            return True
    return False
