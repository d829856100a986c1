"""One run as its files show it: segments of parts, and how to ask them for a number or a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from touchline.domain.observation import Observation, ObservationName, Sign
from touchline.domain.quantity import Missing, Quantity
from touchline.domain.reading import Said, Word
from touchline.evidence.course import Part
from touchline.evidence.tracks import Track, is_training_label

GUESS = "a guess from a line that anything could print"
"""How what no trainer's own line says is marked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An observation and the file that it stands in."""

    seen: Observation
    """What was read."""
    file: str
    """Where."""

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.seen.line}" if self.seen.line else self.file

    @property
    def number(self) -> float | None:
        """The value, if it is a number."""
        return None if isinstance(self.seen.value, str) else self.seen.value

    def quantity(self, **changes: object) -> Quantity:
        """The observation as a Quantity; `changes` replace its members."""
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
            "method": ", ".join(
                part for part in (f"{inside} inside" if inside else "", "" if seen.certain else GUESS) if part
            )
            or None,
            "where": self.where,
        }
        return Quantity(**{**known, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """One segment of a run: the parts of its files that belong together."""

    parts: tuple[Part, ...]
    """At most one a file."""

    @property
    def began(self) -> str:
        """How it began, by the file that knows most."""
        known = [part.began for part in self.parts]
        return next((word for word in ("another run", "resumed", "restarted") if word in known), "fresh")

    @property
    def has_progress(self) -> bool:
        """Whether any file shows a training step."""
        return any(part.has_progress for part in self.parts)

    def all(self, name: ObservationName) -> list[Found]:
        """Observations of a name, file by file, in order."""
        return [Found(seen=seen, file=part.file) for part in self.parts for seen in part.get(name)]

    def signs(self) -> list[tuple[Sign, Part]]:
        """Signs with the part that they stand in."""
        return [(sign, part) for part in self.parts for sign in part.signs.all()]

    def last_loss(self) -> Found | None:
        """The last training loss."""
        found = [Found(seen=part.losses.last, file=part.file) for part in self.parts if part.losses.last is not None]
        return max(found, key=lambda each: (each.seen.epoch or 0.0, each.seen.step or 0), default=None)

    def training_tracks(self, total: int | None) -> list[tuple[Track, Part]]:
        """Bars that count training steps: those that say so, else the unlabelled one that took longest."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run: its segments in order, the last of which counts, and what lies beside its logs."""

    stretches: tuple[Stretch, ...]
    """The segments."""
    documents: Stretch
    """State files and configs, one part each."""

    @property
    def final(self) -> Stretch:
        """The segment that counts."""
        return self.stretches[-1]

    def setting(self, name: ObservationName) -> Found | None:
        """What the run is: certain words before guesses, the log before configs, the last segment before others."""
        sources = [*reversed(self.stretches), self.documents]
        found = [each for source in sources for each in reversed(source.all(name))]
        return next((each for each in found if each.seen.certain), found[0] if found else None)

    def measured(self, name: ObservationName) -> list[Found]:
        """What the last segment measured, else what the state files say; the last one stands last."""
        return self.final.all(name) or self.documents.all(name)

    def count(self, name: ObservationName, reason: str, unit: str = "1") -> Quantity | Missing:
        """A setting that is a number."""
        found = self.setting(name)
        if found is None or found.number is None:
            return Missing(missing=reason)
        return found.quantity(unit=unit if found.seen.unit == "1" else found.seen.unit)

    def word(self, name: ObservationName, reason: str) -> Said:
        """A setting that is a word."""
        found = self.setting(name)
        if found is None:
            return Missing(missing=reason)
        method = None if found.seen.certain else GUESS
        return Word(value=str(found.seen.value), where=found.where, method=method)


def align(courses: Sequence[Sequence[Part]]) -> list[Stretch]:
    """Parts of several files of one run, side by side: counted from the end, for the last attempt is in all of them."""
    rows = max((len(parts) for parts in courses), default=0)
    stretches = []
    for index in range(rows, 0, -1):
        stretches.append(Stretch(parts=tuple(parts[-index] for parts in courses if len(parts) >= index)))
    return stretches


def runs_of(stretches: Iterable[Stretch]) -> list[list[Stretch]]:
    """Segments that are attempts at one run, together; another run begins a new list."""
    runs: list[list[Stretch]] = []
    for stretch in stretches:
        if not runs or stretch.began == "another run" or _differs(runs[-1][-1], stretch):
            runs.append([stretch])
        else:
            runs[-1].append(stretch)
    return runs


def _differs(before: Stretch, after: Stretch) -> bool:
    """Whether two segments cannot be attempts at the same run."""
    for name in ("model", "trainable_parameters"):
        old = [each.seen.value for each in before.all(name) if each.seen.certain]
        new = [each.seen.value for each in after.all(name) if each.seen.certain]
        if old and new and old[-1] != new[-1]:
            return True
    return False
