"""index.jsonl: a line a record, so that lists are shown without opening ten thousand files.

It holds nothing that the records do not say. It is brought up to date whenever it is read: lines of records that are
gone are dropped, records without a line are read. A line that cannot be read, after a merge or a kill, is not a line.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import HostError, InputError
from touchline.core.files import open_regular, write_atomic
from touchline.core.near import did_you_mean, near_names
from touchline.core.notebook import data_frame
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Column, Section, Table, present, table_of
from touchline.core.text import first_of
from touchline.core.units import bare, in_unit, plural
from touchline.history.facts import known
from touchline.history.reading import OptionalText, ScoreFacts, SourcedText
from touchline.history.record import Origin, Quantities, RunRecord, SourceFile
from touchline.history.records import Broken, contents, plain, read_record, record_path

if TYPE_CHECKING:
    import pandas

INDEX_VERSION = 4
"""Raise it when lines say more or something else: an older index is then made again."""
_HEAD = json.dumps({"index_version": INDEX_VERSION})
_INDEX_LIMIT_BYTES = 1 << 30
_IN_THE_RECORD = Missing(missing="in the record")
_ID_LETTERS = 6
"""An id may be shortened to so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRow:
    """Record in a list."""

    id: str
    """The record's id."""
    name: str
    """The run's name."""
    origin: Origin
    """Whose run it is."""
    trainer: OptionalText
    """Trainer that printed it."""
    model: OptionalText
    """The base model."""
    gpu: OptionalText
    """Name of the device."""
    outcome: str
    """Outcome of the run."""
    steps_done: Measured
    """Optimizer steps done."""
    steps_total: Measured
    """Optimizer steps planned."""
    seconds_per_step: Measured
    """Median or mean of an optimizer step."""
    peak_memory: Quantities
    """Peaks while training, one entry a kind of memory."""
    fingerprint: str
    """Hash of the settings that make two runs comparable."""
    scores: tuple[ScoreFacts, ...] = ()
    """Scores of the last checkpoint, without those of their items."""
    superseded_by: str | None = None
    """Id of a newer reading of the same run; such rows count no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexLine:
    """Line of the index: the row, and the fields that decide which of two records is newer."""

    row: HistoryRow
    reader_version: int
    part: int
    """Number of the run among those in its sources."""
    known: int
    revision: int
    """Number of changes of the facts stated of its files."""
    sources: tuple[SourceFile, ...]

    @property
    def id(self) -> str:
        """Id of the record."""
        return self.row.id

    @property
    def origin(self) -> Origin:
        """Origin of the run."""
        return self.row.origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A history's index, up to date."""

    lines: Mapping[str, IndexLine]
    newer: Mapping[str, str]
    """Id of each superseded record, and of the one that took its place."""
    broken: tuple[Broken, ...]

    def rows(self, *, every: bool = False) -> list[HistoryRow]:
        """Return the rows by name; superseded ones only if `every` is set."""
        found = [
            dataclasses.replace(line.row, superseded_by=self.newer.get(id_))
            for id_, line in self.lines.items()
            if every or id_ not in self.newer
        ]
        return sorted(found, key=lambda row: (row.name, row.id))


_LINE = TypeAdapter(IndexLine)


def load_index(history_dir: Path, *, rebuild: bool = False) -> Index:
    """Return the index of a history, brought up to date with its records; a changed one is written if possible.

    Args:
        history_dir: the history; one that is not there is empty.
        rebuild: read every record again.

    Raises:
        InputError: the history is not a folder.
        HostError: it may not be read.
    """
    found = contents(history_dir)
    path = history_dir / "index.jsonl"
    old, whole = ({}, False) if rebuild else _read(path)
    lines: dict[str, IndexLine] = {}
    broken = list(found.strays)
    for id_, file in found.records.items():
        line = old.get(id_)
        if line is None:
            record = read_record(file)
            if isinstance(record, Broken):
                broken.append(record)
                continue
            line = line_of(id_, record)
        lines[id_] = line
    if not whole or lines.keys() != old.keys():
        _write(path, lines)
    return Index(lines=lines, newer=superseded(lines.values()), broken=tuple(broken))


def line_of(id_: str, record: RunRecord) -> IndexLine:
    """Return the line of a record."""
    return IndexLine(
        row=HistoryRow(
            id=id_,
            name=record.name,
            origin=record.origin,
            trainer=record.stack.trainer,
            model=record.model.name,
            gpu=record.machine.gpu,
            outcome=record.course.outcome.value,
            steps_done=record.course.steps_done,
            steps_total=record.course.steps_total,
            seconds_per_step=record.costs.seconds_per_step,
            peak_memory=record.costs.peak_memory,
            fingerprint=record.fingerprint,
            scores=tuple(
                dataclasses.replace(score, outcomes=_IN_THE_RECORD, item_scores=_IN_THE_RECORD)
                for score in record.scores
            ),
        ),
        reader_version=record.reader_version,
        part=record.part,
        known=known(record),
        revision=record.revision,
        sources=record.sources,
    )


def find_record(history_dir: Path, index: Index, wanted: str) -> tuple[str, RunRecord]:
    """Return the record of an id, of the beginning of one, or of a run's name that one current record has.

    Raises:
        InputError: there is none, or several; with those that come near.
    """
    ids = [id_ for id_ in index.lines if len(wanted) >= _ID_LETTERS and id_.startswith(wanted)]
    current = [row for row in index.rows() if row.name == wanted]
    ids = ids or [row.id for row in current]
    if not ids:
        raise InputError(
            f"the history {str(history_dir)!r} has no record {wanted!r}",
            expected=f"a run's name, or at least {_ID_LETTERS} characters of a record's id",
            hint=_near(index, wanted),
        )
    if len(ids) > 1:
        raise InputError(
            f"{wanted!r} names {len(ids)} records",
            expected="one of " + first_of((id_[:12] for id_ in ids), 10),
            hint=f"touchline history show {ids[0][:12]}",
        )
    record = read_record(record_path(history_dir, ids[0]))
    if isinstance(record, Broken):
        raise InputError(
            f"the record {str(record.path)!r} is corrupt: {record.reason}",
            expected="the original file (every copy of the history has it)",
            hint="restore or remove the file, then touchline history rebuild",
        )
    return ids[0], record


def _near(index: Index, wanted: str) -> str:
    names = {line.row.name for line in index.lines.values()} | {id_[:12] for id_ in index.lines}
    near = near_names(wanted, sorted(names), most=3)
    return did_you_mean(near, "touchline history list")


def _read(path: Path) -> tuple[dict[str, IndexLine], bool]:
    """Return the readable lines, and whether those are all."""
    try:
        with open_regular(path) as stream:
            first, *rest = stream.read(_INDEX_LIMIT_BYTES).split(b"\n")
    except OSError:
        return {}, False
    if first != _HEAD.encode():
        return {}, False
    rest = [text for text in rest if text]
    found: dict[str, IndexLine] = {}
    for text in rest:
        try:
            line = _LINE.validate_json(text, strict=True)
        except ValidationError:
            continue
        found[line.id] = line
    return found, len(found) == len(rest)


def _write(path: Path, lines: Mapping[str, IndexLine]) -> None:
    """Write it whole; a read-only history keeps its old index, which does no harm."""
    if not path.parent.is_dir():
        return
    texts = [_HEAD]
    for line in lines.values():
        texts.append(json.dumps(plain(line), ensure_ascii=False, sort_keys=True, separators=(",", ":")))
    try:
        write_atomic(path, "\n".join(texts) + "\n")
    except HostError:
        return


# ---- newer readings of the same run ----------------------------------------------------------------------------------
#
# A log only grows, so a record is superseded by another one in which all of its logs are longer; never by a clock. This
# needs nothing but the two records, so it holds wherever two histories meet. Two runs whose logs have the same name and
# begin with the same hundred lines of settings stay two runs: their lines differ where the training begins. (A log that
# was cut off before that is taken for the beginning of the longer one; it has nothing of its own to teach.) Documents
# decide nothing, unless a record has no other source.


def superseded(readings: Iterable[IndexLine]) -> dict[str, str]:
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
    old: IndexLine, grown: Sequence[tuple[str, str, int]], equal: Mapping[tuple[str, str], Sequence[int]]
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


def _order(reading: IndexLine) -> tuple[bool, int, int, int, int, int, str]:
    """Return the sort key of a reading: owner, number of logs, latest statements, later readers, number of files."""
    size = sum(source.size_bytes for source in reading.sources if source.growth)
    own = reading.origin == "touchline"
    return own, size, reading.revision, reading.reader_version, len(reading.sources), reading.known, reading.id


def _supersedes(new: IndexLine, old: IndexLine) -> bool:
    """Return True if `new`, later in order, is a newer reading of the run that `old` was read from.

    Readers of another version may part the same logs into other runs, so that then no part of theirs counts.
    """
    return (new.part == old.part or new.reader_version > old.reader_version) and _is_continued(new, old)


def _is_continued(new: IndexLine, old: IndexLine) -> bool:
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


_SHOWN = 4
_COLUMNS = ("id", "run", "outcome", "steps", "s/step")
_WIDE = tuple(Column(label, is_wide=True) for label in ("peak memory", "trainer", "model", "GPU"))


class History(list[HistoryRow]):
    """Records of past runs, by name."""

    def to_rows(self) -> list[dict[str, str | float | None]]:
        """Return one row per record. None stands for what is unknown.

        `seconds_per_step` is in seconds; `peak_memory_gib` is the largest peak in GiB, `peak_memory_kind` its kind.
        `score` is the mean over the items of `task`, of the first task if there are several.
        """
        return [_plain_row(row) for row in self]

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows of `to_rows` as a DataFrame, indexed by id.

        Raises:
            HostError: pandas is not installed.
        """
        return data_frame(self.to_rows(), index="id", columns=_PLAIN)

    def to_table(self) -> Table | None:
        """Return the table that commands and notebooks show; None without records."""
        if not any(row.scores for row in self):
            return table_of((*_COLUMNS, *_WIDE), [(*_row(row), *_stack(row)) for row in self])
        rows = [(*_row(row), score_text(row.scores), *_stack(row)) for row in self]
        return table_of((*_COLUMNS, "score", *_WIDE), rows)

    def __repr__(self) -> str:
        names = f": {first_of((row.name for row in self), _SHOWN)}" if self else ""
        return f"<history of {plural(len(self), 'record')}{names}>"

    def _repr_html_(self) -> str:
        from touchline.core.notebook import notebook_html

        section = Section(title="", tables=present(self.to_table()))
        return notebook_html(f"History of {plural(len(self), 'record')}", [section])


_PLAIN = (
    *("id", "run", "origin", "trainer", "model", "gpu", "outcome", "steps_done", "steps_total"),
    *("seconds_per_step", "peak_memory_gib", "peak_memory_kind", "task", "score_name", "score"),
)


def _plain_row(row: HistoryRow) -> dict[str, str | float | None]:
    peaks = () if isinstance(row.peak_memory, Missing) else row.peak_memory
    peak = max(peaks, key=lambda each: each.value, default=None)
    memory = (None, None) if peak is None else (_value(in_unit(peak, "GiB")), peak.kind)
    texts = (_value(fact) for fact in (row.trainer, row.model, row.gpu))
    figures = (_value(fact) for fact in (row.steps_done, row.steps_total, row.seconds_per_step))
    score = (row.scores[0].task, row.scores[0].score, _value(row.scores[0].value)) if row.scores else (None,) * 3
    cells = (row.id, row.name, row.origin, *texts, row.outcome, *figures, *memory, *score)
    return dict(zip(_PLAIN, cells, strict=True))


def _value(fact: Measured | OptionalText) -> str | float | None:
    return None if isinstance(fact, Missing) else fact.value


def _row(row: HistoryRow) -> tuple[str, ...]:
    return (
        row.id[:12] + (" (old)" if row.superseded_by else ""),
        row.name,
        row.outcome,
        steps_text(row.steps_done, row.steps_total),
        short(row.seconds_per_step),
    )


def _stack(row: HistoryRow) -> tuple[str, ...]:
    peaks = row.peak_memory
    memory = (
        "-" if isinstance(peaks, Missing) else ", ".join(f"{short(each)} {each.kind or ''}".strip() for each in peaks)
    )
    return memory, *(short(fact) for fact in (row.trainer, row.model, row.gpu))


def score_text(scores: Sequence[ScoreFacts]) -> str:
    """Return `0.850`, the first score, with the number of others, or a dash."""
    if not scores:
        return "-"
    value = scores[0].value
    first = "-" if isinstance(value, Missing) else f"{value.value:.3f}"
    return first if len(scores) == 1 else f"{first} (+{len(scores) - 1})"


def steps_text(done: Measured, total: Measured) -> str:
    """Return `40/200`, with what is known of the two, or a dash."""
    figures = [f"{each.value:,.0f}" for each in (done, total) if not isinstance(each, Missing)]
    return "/".join(figures) or "-"


def short(fact: Quantity | SourcedText | Missing) -> str:
    """Return a table cell: the number with its unit, or a dash."""
    if isinstance(fact, Missing):
        return "-"
    return bare(fact) if isinstance(fact, Quantity) else fact.value
