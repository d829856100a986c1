"""Lines on packing, memory and the course of a training that recipes of our users' own print.

No trainer is known to print them: `Packed 8000 examples into 2857 sequences`, `Dataset packed: 2857 total sequences`,
`Peak GPU memory: 45.2 GB`, `Training started at 2025-10-20 14:30:00`. They are read at the beginning of a line only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from touchline.backends.logtext.numbers import NUMBER, to_number
from touchline.backends.logtext.prefixes import strip_prefix
from touchline.backends.logtext.reader import Row
from touchline.backends.logtext.stamps import read_stamp
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind, Stamp
from touchline.core.quantity import MemoryKind, Phase

_N = r"(\d{1,3}(?:[,_]\d{3})+|\d+)"
_EXAMPLES = r"(?:training |train )?(?:examples|samples)"
_ROWS = r"(?:packed )?(?:sequences|packs|rows|bins)"
_IS = r"(?: is)?\s*[:=]?\s*"
_END = r"\s*[.!]?\s*$"
_PACKED = re.compile(rf"Packed {_N} {_EXAMPLES} into {_N} {_ROWS}\b.{{0,80}}$", re.IGNORECASE)
_SEQUENCES = re.compile(
    rf"(?:Dataset packed\s*[:,=]?\s*(?:into )?{_N} (?:total )?{_ROWS}|Total (?:packed )?sequences\s*[:=]\s*{_N}){_END}",
    re.IGNORECASE,
)
_LOADED = re.compile(
    rf"(?:(?:Dataset )?loaded\s*[:,=]?\s*{_N} {_EXAMPLES}(?P<of> (?:from|for|of|in)\b.{{0,160}}?)?"
    rf"|Total examples\s*[:=]\s*{_N}){_END}",
    re.IGNORECASE,
)
_NOT_TRAINED_ON = re.compile(
    r"(?<![a-z])(?:val|valid|validation|eval\w*|test\w*|dev|few.?shot|in.?context|held.?out)(?![a-z])", re.IGNORECASE
)
_DENSITY = re.compile(
    rf"(?:(?:Average|Avg\.?|Mean) )?packing density{_IS}({NUMBER})"
    rf"\s*(?:x|(?:examples|samples)\s*(?:/|per)\s*\w+)?{_END}",
    re.IGNORECASE,
)
_EFFICIENCY = re.compile(
    rf"packing efficiency{_IS}({NUMBER})\s*(?P<sign>%|percent)?(?:\s+\(?non-?padding(?: tokens)?\)?)?{_END}",
    re.IGNORECASE,
)
_LENGTH = re.compile(rf"Packing dataset with max[_ ]seq(?:uence)?[_ ]len(?:gth)?\s*[=:]?\s*{_N}\b", re.IGNORECASE)
_PEAK = re.compile(
    r"Peak GPU memory(?: (?P<what>usage|use|used|allocated|allocation|reserved))?"
    rf"(?P<init> after (?:model )?(?:init\w*|load\w*))?{_IS}({NUMBER})\s*(?P<unit>GB|GiB|MiB)\b"
    r"(?:\s*(?:/|of)\s*[\d.]+ ?Gi?B)?(?:\s*\([^()]{0,40}\))?" + _END,
    re.IGNORECASE,
)
_COURSE = re.compile(
    r"(?:Fine-?tuning|Training) (?P<what>started|completed|finished|ended)\b"
    r"(?P<rest>\D{0,60}(?P<date>20\d\d[-/]\d\d[-/]\d\d[T _]\d\d:\d\d:\d\d)?.{0,20})$",
    re.IGNORECASE,
)
_BARE = re.compile(r"[\s.:!)(\]\[-]*$")
_DECORATION = re.compile(r"^[^\w\[({]{0,6}")
_LENGTH_LIMIT = 240
_TEXT_LIMIT = 300


class PackingLines:
    """Reader of the forms above and near variants."""

    words: ClassVar[frozenset[str]] = frozenset(
        {"packed", "packing", "loaded", "sequences", "examples", "peak", "started", "completed", "finished", "ended"}
    )

    def __init__(self) -> None:
        """Start a file."""
        self._loaded = False

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Yield the events of a line."""
        if len(text) > _LENGTH_LIMIT or "%|" in text:
            return
        _, rest = strip_prefix(text)
        said = _DECORATION.sub("", rest).rstrip()
        yield from self._packing(said, number)
        yield from _peak(said, number)
        yield from self._course(said, text, number)

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return no events: these are sentences."""
        del row, text, number
        return ()

    def _packing(self, said: str, number: int) -> Iterator[Event]:
        if (match := _PACKED.match(said)) is not None:
            yield from _number("total_examples", match.group(1), number, "examples")
            yield from _number("total_sequences", match.group(2), number, "sequences")
            yield Observation(name="packed", value="true", line=number)
        elif (match := _SEQUENCES.match(said)) is not None:
            yield from _number("total_sequences", match.group(1) or match.group(2), number, "sequences")
            yield Observation(name="packed", value="true", line=number)
        elif (match := _LENGTH.match(said)) is not None:
            yield from _number("max_seq_len", match.group(1), number, "tokens")
            yield Observation(name="packed", value="true", line=number)
        elif (match := _DENSITY.match(said)) is not None:
            yield from _number("packing_density", match.group(1), number, "examples/sequence")
        elif (match := _EFFICIENCY.match(said)) is not None:
            yield from _efficiency(match, number)
        elif (match := _LOADED.match(said)) is not None:
            # A validation split that is loaded after the training split may not say so: the first one counts.
            if self._loaded or _NOT_TRAINED_ON.search(match.group("of") or ""):
                return
            self._loaded = True
            count = match.group(1) or match.group(3)
            yield from _number("total_examples", count, number, "examples", certain=False)

    def _course(self, said: str, text: str, number: int) -> Iterator[Event]:
        """Begin and end, with the time that stands behind them: at a line's beginning it is read with all others."""
        match = _COURSE.match(said)
        started = match is not None and match.group("what").lower() == "started"
        # An end without a time is read with what else people write at the end.
        if match is None or not (match.group("date") or (started and _BARE.match(match.group("rest")))):
            return
        if started:
            self._loaded = False
        kind = SignKind.START if started else SignKind.TRAINED
        yield Sign(kind=kind, line=number, text=text[:_TEXT_LIMIT])
        unix = read_stamp(match.group("date") or "")
        if unix is not None and read_stamp(text) is None:
            yield Stamp(unix, number)


def _efficiency(match: re.Match[str], number: int) -> Iterator[Observation]:
    """Yield the non-padding share of the tokens in per cent; a number up to 1 without a sign is a fraction."""
    value = to_number(match.group(1))
    if value is None:
        return
    percent = value if match.group("sign") or value > 1 else 100 * value
    if 0 < percent <= 100:
        yield Observation(name="packing_efficiency", value=percent, line=number, unit="%")


def _peak(said: str, number: int) -> Iterator[Observation]:
    """Yield a peak of the GPU's memory.

    The plain form does not say which memory. It is none of `process`, which is host memory here. Of the two others it
    is taken for `allocated`, what most programs print under this name: were it the larger `reserved`, an estimate made
    from it would be too high, never too low. GB may be 10**9 or 2**30 bytes and stays GB.
    """
    match = _PEAK.match(said)
    size = to_number(match.group(3)) if match is not None else None
    if match is None or not size:
        return
    kind: MemoryKind = "reserved" if (match.group("what") or "").lower() == "reserved" else "allocated"
    phase: Phase = "after_init" if match.group("init") else "step"
    unit = match.group("unit").lower()
    value, shown = (size / 1024, "GiB") if unit == "mib" else (size, "GiB" if unit == "gib" else "GB")
    yield Observation(
        name="peak_memory", value=value, line=number, unit=shown, phase=phase, kind=kind, aggregation="peak"
    )


def _number(
    name: ObservationName, value: str, number: int, unit: str, *, certain: bool = True
) -> Iterator[Observation]:
    found = to_number(value)
    if found is not None and found > 0:
        yield Observation(name=name, value=found, line=number, unit=unit, certain=certain)
