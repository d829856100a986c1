"""Readings and records for the tests of the history, every field of them filled or missing as a test wants."""

import hashlib
from pathlib import Path
from typing import Any, get_type_hints

from hypothesis import strategies as st

from touchline.core.quantity import Missing, Quantity
from touchline.core.status import Outcome
from touchline.history.facts import RUN_FACTS, record_from
from touchline.history.reading import EvidenceLine, OptionalText, Segment, SourcedText, ValidationPoint
from touchline.history.record import RunRecord, SourceFile
from touchline.history.records import growth, record_of

_HINTS = get_type_hints(RunRecord)


def _hint(name: str) -> object:
    group, _, member = RUN_FACTS[name].stored.partition(".")
    return get_type_hints(_HINTS[group])[member]


WORDS_OF_A_RUN = frozenset(name for name in RUN_FACTS if _hint(name) in (OptionalText, SourcedText))


def make_reading(name: str = "night_shift", **changes: Any) -> RunRecord:
    """A run that was read, in which everything is missing but the outcome and what is given."""
    known: dict[str, Any] = dict.fromkeys(RUN_FACTS, Missing(missing="no line says it"))
    known |= {"outcome": SourcedText(value="completed", where=f"{name}.log:9")}
    known |= {"versions": (), "segment_list": (), "proofs": (), "notes": (), "validation": ()} | changes
    return record_from(name, known, notes=known.pop("notes"), validation=known.pop("validation"))


def number(value: float, unit: str = "1", where: str = "night_shift.log:3", **more: Any) -> Quantity:
    return Quantity(value=value, unit=unit, where=where, **more)


def make_source(content: bytes, name: str = "night_shift.log") -> SourceFile:
    """What a record keeps of a file with that content."""
    return SourceFile(
        name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), growth=growth(name, content)
    )


def make_record(
    name: str = "night_shift", content: bytes = b"", part: int = 0, version: int = 1, **changes: object
) -> RunRecord:
    """A record of one log; without a content, of one that only the name tells from others."""
    source = make_source(content or f"{name} begins\n".encode(), f"{name}.log")
    return record_of(make_reading(name, **changes), {f"{name}.log": source}, reader_version=version, part=part)


TEXT = st.text(st.sampled_from("abz09 /\\~'\"`.:=…_-\n\x1b\x85\udc80é日"), max_size=24)
"""Text with everything that paths, quotes, terminals and broken encodings bring."""
NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=True, allow_infinity=True))
_OPTIONAL = st.one_of(st.none(), TEXT)
QUANTITIES = st.builds(
    Quantity,
    value=NUMBERS,
    unit=st.sampled_from(["1", "s", "GiB", "tokens/s"]),
    phase=st.sampled_from([None, "step", "eval", "after_init"]),
    kind=st.sampled_from([None, "allocated", "reserved", "process"]),
    token_unit=st.sampled_from([None, "padded", "real", "label"]),
    aggregation=st.sampled_from([None, "last", "mean", "median", "peak", "sum"]),
    method=_OPTIONAL,
    where=_OPTIONAL,
)
MISSING = st.builds(Missing, missing=TEXT)
WORDS = st.builds(SourcedText, value=TEXT, where=_OPTIONAL, method=_OPTIONAL)
_NUMBERS = st.one_of(QUANTITIES, MISSING)
_LISTS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("versions", "notes"), st.lists(TEXT, max_size=3).map(tuple)),
    "proofs": st.lists(st.builds(EvidenceLine, where=TEXT, text=TEXT, says=TEXT), max_size=2).map(tuple),
    "validation": st.lists(
        st.builds(ValidationPoint, step=st.integers(0, 99), loss=st.one_of(st.none(), st.floats(0, 9))), max_size=3
    ).map(tuple),
    "segment_list": st.lists(
        st.builds(
            Segment,
            where=TEXT,
            begins=TEXT,
            first_step=st.one_of(st.none(), st.integers(0, 99)),
            last_step=st.one_of(st.none(), st.integers(0, 99)),
            outcome=st.sampled_from(Outcome),
        ),
        max_size=2,
    ).map(tuple),
}
READINGS = st.builds(
    make_reading,
    TEXT,
    **{
        name: st.one_of(WORDS, MISSING) if name in WORDS_OF_A_RUN else _NUMBERS
        for name in RUN_FACTS
        if name != "outcome"
    },
    outcome=WORDS,
    **_LISTS,
)
"""Readings of every kind, also ones that no log would give."""


def write_log(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
