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
from touchline.core.observation import Event, Observation, Sign, SignKind, Stamp

_N = r"\d{1,3}(?:[,_]\d{3})+|\d+"
_EXAMPLES = r"(?:training |train )?(?:examples|samples)"
_ROWS = r"(?:packed )?(?:sequences|packs|rows|bins)"
_IS = r"(?: is)?\s*[:=]?\s*"
_END = r"\s*[.!]?\s*$"
_UNITS = {
    "total_examples": "examples",
    "total_sequences": "sequences",
    "max_seq_len": "tokens",
    "packing_density": "examples/sequence",
    "packing_efficiency": "%",
}
_FORMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"Packed (?P<total_examples>{_N}) {_EXAMPLES} into (?P<total_sequences>{_N}) {_ROWS}\b.{{0,80}}$",
        rf"(?:Dataset packed\s*[:,=]?\s*(?:into )?(?=.*{_ROWS})|Total (?:packed )?sequences\s*[:=]\s*)"
        rf"(?P<total_sequences>{_N})(?: (?:total )?{_ROWS})?{_END}",
        rf"Packing dataset with max[_ ]seq(?:uence)?[_ ]len(?:gth)?\s*[=:]?\s*(?P<max_seq_len>{_N})\b",
        rf"(?:(?:Average|Avg\.?|Mean) )?packing density{_IS}(?P<packing_density>{NUMBER})"
        rf"\s*(?:x|(?:examples|samples)\s*(?:/|per)\s*\w+)?{_END}",
        rf"packing efficiency{_IS}(?P<packing_efficiency>{NUMBER})\s*(?P<percent>%|percent)?"
        rf"(?:\s+\(?non-?padding(?: tokens)?\)?)?{_END}",
    )
)
"""Groups are named like the observations that they give."""
_LOADED = re.compile(
    rf"(?:(?:Dataset )?loaded\s*[:,=]?\s*(?=\S+ {_EXAMPLES})|Total examples\s*[:=]\s*)(?P<count>{_N})(?: {_EXAMPLES})?"
    rf"(?P<of> (?:from|for|of|in)\b.{{0,160}}?)?{_END}",
    re.IGNORECASE,
)
_NOT_TRAINED_ON = re.compile(
    r"(?<![a-z])(?:val|valid|validation|eval\w*|test\w*|dev|few.?shot|in.?context|held.?out)(?![a-z])", re.IGNORECASE
)
_PEAK = re.compile(
    r"Peak GPU memory(?: (?P<what>usage|use|used|allocated|allocation|reserved))?"
    rf"(?P<init> after (?:model )?(?:init\w*|load\w*))?{_IS}(?P<size>{NUMBER})\s*(?P<unit>GB|GiB|MiB)\b"
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
        said = _DECORATION.sub("", strip_prefix(text)[1]).rstrip()
        for form in _FORMS:
            if (match := form.match(said)) is not None:
                yield from _figures(match, number)
        loaded = _LOADED.match(said)
        # A validation split that is loaded after the training split may not say so: the first one counts.
        if loaded is not None and not self._loaded and not _NOT_TRAINED_ON.search(loaded["of"] or ""):
            self._loaded = True
            count = to_number(loaded["count"]) or 0.0
            yield Observation(name="total_examples", value=count, line=number, unit="examples", certain=False)
        yield from _peak(said, number)
        yield from self._course(said, text, number)

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return no events: these are sentences."""
        del row, text, number
        return ()

    def _course(self, said: str, text: str, number: int) -> Iterator[Event]:
        """Begin and end, with the time that stands behind them: at a line's beginning it is read with all others."""
        match = _COURSE.match(said)
        started = match is not None and match["what"].lower() == "started"
        # An end without a time is read with what else people write at the end.
        if match is None or not (match["date"] or (started and _BARE.match(match["rest"]))):
            return
        if started:
            self._loaded = False
        yield Sign(kind=SignKind.START if started else SignKind.TRAINED, line=number, text=text)
        unix = read_stamp(match["date"] or "")
        if unix is not None and read_stamp(text) is None:
            yield Stamp(unix, number)


def _figures(match: re.Match[str], number: int) -> Iterator[Observation]:
    """Yield the figures of a form; a share up to 1 without a sign is a fraction of the tokens."""
    groups = match.groupdict()
    for name, unit in _UNITS.items():
        value = to_number(groups.get(name))
        if name == "packing_efficiency" and value is not None and not groups.get("percent") and value <= 1:
            value *= 100
        if value and (unit != "%" or value <= 100):
            yield Observation(name=name, value=value, line=number, unit=unit)  # type: ignore[arg-type]
    if "total_sequences" in groups or "max_seq_len" in groups:
        yield Observation(name="packed", value="true", line=number)


def _peak(said: str, number: int) -> Iterator[Observation]:
    """Yield a peak of the GPU's memory.

    The plain form does not say which memory. It is none of `process`, which is host memory here. Of the two others it
    is taken for `allocated`, what most programs print under this name: were it the larger `reserved`, an estimate made
    from it would be too high, never too low. GB may be 10**9 or 2**30 bytes and stays GB.
    """
    match = _PEAK.match(said)
    size = to_number(match["size"]) if match is not None else None
    if match is None or not size:
        return
    unit = match["unit"].lower()
    yield Observation(
        name="peak_memory",
        value=size / 1024 if unit == "mib" else size,
        line=number,
        unit="GB" if unit == "gb" else "GiB",
        phase="after_init" if match["init"] else "step",
        kind="reserved" if (match["what"] or "").lower() == "reserved" else "allocated",
        aggregation="peak",
    )
