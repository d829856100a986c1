"""Versions of records of the same run, decided by what they were read from, never by a clock.

A log only grows. So each source is kept with the digests of its first line, its first two lines, and so on: one for
each of the first 64 lines, from there every 9 % more, within the first MiB. A record is superseded by another
one in which all of its logs are longer. This needs nothing but the two records, so it
holds wherever two histories meet. Two runs whose logs have the same name and begin with the same hundred lines of
settings stay two runs: their lines differ where the training begins. (A log that was cut off before that is taken for
the beginning of the longer one; it has nothing of its own to teach.)

A trainer_state.json is rewritten as a whole, but its log_history only grows: its entries count as lines. Configs and
other documents do not grow and decide nothing, unless a record has no other source.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from touchline.core.json_text import parse_json
from touchline.history.record import Origin, SourceFile

HEAD_BYTES = 1 << 20
"""Bytes at a log's beginning that are compared: megabytes of equal lines are not a coincidence."""
_EACH = 64
_FACTOR = 1.09
_DIGITS = 8
_DOCUMENTS = (".json", ".yaml", ".yml", ".toml", ".sh", ".slurm", ".sbatch")
_LINE_END = re.compile(rb"[\r\n]")
DOCUMENT_LIMIT_BYTES = 64 << 20
"""A larger document is not parsed."""


class Reading(Protocol):
    """Facts of a record that decide whether it supersedes another."""

    @property
    def id(self) -> str:
        """Id of the record."""
        ...

    @property
    def origin(self) -> Origin:
        """Origin of the run."""
        ...

    @property
    def reader_version(self) -> int:
        """Version of the readers."""
        ...

    @property
    def part(self) -> int:
        """Number of the run among those in its sources."""
        ...

    @property
    def known(self) -> int:
        """Number of facts."""
        ...

    @property
    def revision(self) -> int:
        """Number of changes of the facts stated of its files."""
        ...

    @property
    def sources(self) -> Sequence[SourceFile]:
        """Files that it was read from."""
        ...


def is_document(name: str) -> bool:
    """Return True if a file of that name is a document or a script, rewritten as a whole, and no log."""
    return name.lower().endswith(_DOCUMENTS)


def growth(name: str, content: bytes) -> str:
    """Return the digests of a file that grows.

    Args:
        name: the file's name; its suffix distinguishes logs from documents.
        content: of a log its first `HEAD_BYTES`, of a document everything.
    """
    # What stands behind the last line's end may be half a line.
    pieces = _history(content) if is_document(name) else _LINE_END.split(content[:HEAD_BYTES])[:-1]
    digest = hashlib.sha256()
    found: list[str] = []
    mark = 1.0
    for number, piece in enumerate(pieces, 1):
        digest.update(piece)
        digest.update(b"\n")
        if number >= mark:
            found.append(digest.hexdigest()[:_DIGITS])
            mark = number + 1 if number < _EACH else max(number + 1, mark * _FACTOR)
    return "".join(found)


def _history(content: bytes) -> list[bytes]:
    """Return the entries of a trainer state's log_history; of another document nothing."""
    if len(content) > DOCUMENT_LIMIT_BYTES or b'"log_history"' not in content:
        return []
    try:
        rows = parse_json(content)["log_history"]
        return [json.dumps(row, sort_keys=True).encode() for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def superseded(readings: Iterable[Reading]) -> dict[str, str]:
    """Return the id of each record that has a newer reading, with the id of the newest."""
    every = list(readings)
    # Sorted by their digests, the logs that go on from a log's end stand right behind it.
    grown = sorted((_base(s.name), s.growth, n) for n, r in enumerate(every) for s in r.sources if s.growth)
    equal: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, reading in enumerate(every):
        for source in reading.sources:
            equal[_base(source.name), source.sha256].append(number)
    found: dict[str, str] = {}
    for old in every:
        numbers = _behind(old, grown, equal)
        newer = [every[n] for n in numbers if _order(every[n]) > _order(old) and _supersedes(every[n], old)]
        if newer:
            found[old.id] = max(newer, key=_order).id
    return found


def _behind(
    old: Reading, grown: Sequence[tuple[str, str, int]], equal: Mapping[tuple[str, str], Sequence[int]]
) -> set[int]:
    """Return the numbers of the readings that may continue one: those that share a log, or else a document."""
    found: set[int] = set()
    logs = [source for source in old.sources if source.growth]
    for log in logs:
        name = _base(log.name)
        place = bisect.bisect_left(grown, (name, log.growth, -1))
        while place < len(grown) and grown[place][0] == name and grown[place][1].startswith(log.growth):
            found.add(grown[place][2])
            place += 1
    for document in old.sources if not logs else ():
        found.update(equal[_base(document.name), document.sha256])
    return found


def _order(reading: Reading) -> tuple[bool, int, int, int, int, int, str]:
    """Return the sort key of a reading: owner, number of logs, latest statements, later readers, number of files."""
    size = sum(source.size_bytes for source in reading.sources if source.growth)
    own = reading.origin == "touchline"
    return own, size, reading.revision, reading.reader_version, len(reading.sources), reading.known, reading.id


def _supersedes(new: Reading, old: Reading) -> bool:
    """Return True if `new`, later in order, is a newer reading of the run that `old` was read from.

    Readers of another version may part the same logs into other runs, so that then no part of theirs counts.
    """
    return (new.part == old.part or new.reader_version > old.reader_version) and _is_continued(new, old)


def _is_continued(new: Reading, old: Reading) -> bool:
    """Return True if every source of `old` is longer, or unchanged, in `new`.

    Our own record of a run needs no more than the metrics that it shares with an import of its folder.
    """
    sources = [source for source in old.sources if source.growth] or old.sources
    there = [any(_grown(b, a) for b in new.sources) for a in sources]
    return any(there) if (new.origin, old.origin) == ("touchline", "imported") else bool(there) and all(there)


def _grown(new: SourceFile, old: SourceFile) -> bool:
    if _base(new.name) != _base(old.name):
        return False
    if new.sha256 == old.sha256:
        return True
    return bool(old.growth) and new.size_bytes >= old.size_bytes and new.growth.startswith(old.growth)


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]
