"""Files become records in the history: what is new is read, what is unchanged is not opened."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from touchline.core.callbacks import NamedProgressCallback
from touchline.core.errors import HostError, InputError
from touchline.core.files import open_regular, read_bytes, write_atomic
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics_file import METRICS, read_metrics_file
from touchline.history.files import LoggedRun, SkippedFile
from touchline.history.grouping import FileGroup
from touchline.history.index import IndexLine, load_index
from touchline.history.padding import with_lengths
from touchline.history.readers import READERS_VERSION
from touchline.history.reading import OptionalText, SourcedText
from touchline.history.record import RunRecord, SourceFile, first
from touchline.history.records import (
    DOCUMENT_LIMIT_BYTES,
    HEAD_BYTES,
    contents,
    growth,
    is_document,
    model_name,
    record_id,
    record_of,
    source_names,
    store_record,
)

_CHUNK_BYTES = 1 << 20
Fact = TypeVar("Fact", bound=Quantity | SourcedText | Missing)


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestedRun:
    """Run that was read, its places named by the paths that the user gave."""

    id: str
    """The record's id."""
    new: bool
    """Whether the history did not hold it yet."""
    name: str
    """The run's name."""
    trainer: OptionalText
    """Trainer that printed it."""
    model: OptionalText
    """The base model, as the log names it."""
    steps_done: Measured
    """Optimizer steps done."""
    steps_total: Measured
    """Optimizer steps planned."""
    seconds_per_step: Measured
    """Median or mean of an optimizer step."""
    peak_memory: Measured
    """Peak while training."""
    outcome: SourcedText
    """Outcome of the run."""
    files: tuple[str, ...]
    """The files that it was read from."""
    notes: tuple[str, ...]
    """Corrections, refusals and omissions, with their reasons."""
    to_measure: str = ""
    """What to do so that its dataset, which could not be measured, can be; empty if that is not the trouble."""
    dataset: str = ""
    """File or set that it was trained on, as its config names it; empty if no config does."""
    missing_facts: tuple[str, ...] = ()
    """Facts that an estimate needs and the record lacks, by their keys; empty too where none would help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedFile:
    """A file that gave no run."""

    path: str
    """The file."""
    reason: str
    """Why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSummary:
    """Result of adding files to a history."""

    history: str
    """The history's folder."""
    dry_run: bool
    """Whether nothing was written."""
    learned: tuple[IngestedRun, ...]
    """The runs that were read, in the order of their files."""
    refused: tuple[RefusedFile, ...]
    """The files without a run."""
    unchanged_files: int
    """Files that are as they were when they were read before, and were not opened."""
    unchanged_refused: int
    """Number of those files that gave no run then."""
    unchanged_runs: int
    """Records that those files gave then."""


@dataclass(slots=True)
class _Tally:
    learned: list[IngestedRun] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    unchanged_files: int = 0
    unchanged_refused: int = 0
    unchanged_runs: int = 0


def readable(paths: Sequence[Path]) -> Sequence[Path]:
    """Return the paths if there is something to read at each.

    Raises:
        InputError: it is not so; every one of them is named.
    """
    faults = [f"{str(path)!r} {reason}" for path in paths if (reason := _unreadable(path)) is not None]
    if faults:
        raise InputError(
            "; ".join(faults),
            expected="logs, state files, or folders with some",
            hint=f"ls -ld {' '.join(shlex.quote(str(path)) for path in paths if _unreadable(path) is not None)}",
        )
    return paths


def _unreadable(path: Path) -> str | None:
    try:
        if not path.exists():
            return "does not exist"
        return None if os.access(path, os.R_OK) else "may not be read"
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"


def add_groups(
    history_dir: Path,
    groups: Sequence[FileGroup],
    read: Callable[[FileGroup], Sequence[LoggedRun | SkippedFile]],
    *,
    dry_run: bool = False,
    again: bool = False,
    lacking: Callable[[RunRecord], tuple[str, ...]] = lambda record: (),
    on_progress: NamedProgressCallback | None = None,
) -> ImportSummary:
    """Read the groups of files that have changed, and put their runs into the history.

    Each record is on disk before the next group is read; the index and the list of known files are written once, at
    the end, also when the end is Ctrl-C.

    Args:
        again: read unchanged files too, because something is stated of them.
        lacking: returns the facts that an estimate needs and a record lacks.

    Raises:
        InputError: the history is not a folder.
        HostError: no space, or no permission.
    """
    there = set(contents(history_dir).records)
    seen = ReadCache(history_dir, READERS_VERSION)
    tally = _Tally()
    try:
        for number, group in enumerate(groups):
            if on_progress is not None:
                on_progress(number, len(groups), group.key)
            files = (*group.files, *group.facts)
            state = state_of(files)
            before = seen.get(group.files, state) if state is not None and not again else None
            if before is not None and there.issuperset(before.records):
                tally.unchanged_files += len(group.files)
                tally.unchanged_refused += before.refused
                tally.unchanged_runs += len(before.records)
                continue
            records, refused = _learn(history_dir, read(group), there, tally, dry_run, lacking)
            # A file that has grown meanwhile is read again next time.
            if state is not None and state == state_of(files):
                seen.put(group.files, CachedGroup(state=state, records=tuple(records), refused=refused))
        if on_progress is not None and groups:
            on_progress(len(groups), len(groups), "")
    finally:
        if not dry_run:
            seen.save()
            if any(item.new for item in tally.learned):
                load_index(history_dir)
    return ImportSummary(
        history=str(history_dir),
        dry_run=dry_run,
        learned=tuple(tally.learned),
        refused=tuple(tally.refused),
        unchanged_files=tally.unchanged_files,
        unchanged_refused=tally.unchanged_refused,
        unchanged_runs=tally.unchanged_runs,
    )


def _learn(
    history_dir: Path,
    found: Sequence[LoggedRun | SkippedFile],
    there: set[str],
    tally: _Tally,
    dry_run: bool,
    lacking: Callable[[RunRecord], tuple[str, ...]],
) -> tuple[list[str], int]:
    """Put one group's runs into the history; give their ids, and how many files were refused."""
    ids: list[str] = []
    refused = 0
    parts: Counter[tuple[Path, ...]] = Counter()
    for item in found:
        record = item if isinstance(item, SkippedFile) else record_of_run(item, parts[item.sources])
        if isinstance(record, SkippedFile) or isinstance(item, SkippedFile):
            refused += 1
            tally.refused.append(_refused(record))
            continue
        parts[item.sources] += 1
        if item.stated:
            record = as_latest(load_index(history_dir).lines.values(), record)
        id_ = record_id(record) if dry_run else store_record(history_dir, record).stem
        learned = replace(_learned(id_, id_ not in there, item), missing_facts=lacking(record))
        tally.learned.append(learned)
        there.add(id_)
        ids.append(id_)
    return ids, refused


def as_latest(lines: Iterable[IndexLine], record: RunRecord) -> RunRecord:
    """Return a record as the latest reading of its logs, for what logs do not decide: stated facts, and scores.

    Args:
        record: the reading, which counts more than all that the index has of the same logs.
    """
    logs = _logs(record)
    rivals = [
        line for line in lines if line.origin == record.origin and line.part == record.part and _logs(line) == logs
    ]
    latest = max((line.revision for line in rivals), default=0)
    same = replace(record, revision=latest)
    known = not rivals or any(line.id == record_id(same) for line in rivals)
    return same if known else replace(record, revision=latest + 1)


def _logs(record: RunRecord | IndexLine) -> frozenset[str]:
    """Return the hashes of the sources that decide which run it is."""
    return frozenset(source.sha256 for source in record.sources if source.growth)


def _refused(item: RunRecord | SkippedFile) -> RefusedFile:
    assert isinstance(item, SkippedFile)
    return RefusedFile(path=str(item.path), reason=item.reason)


def record_of_run(found: LoggedRun, part: int = 0) -> RunRecord | SkippedFile:
    """Return the record of a run that was read, with the hashes of its files; skipped if none is readable any more.

    Args:
        part: which of the runs in the same files it is, from 0.
    """
    names = source_names(found.sources)
    sources: dict[str, SourceFile] = {}
    fault: OSError | None = None
    for path in found.sources:
        try:
            sources[str(path)] = source_of(path, names[str(path)])
        except OSError as error:
            fault = error  # A companion that may not be read tells nothing either.
    if not sources:
        return SkippedFile(
            path=found.sources[0], reason=f"disappeared while it was read: {fault.strerror if fault else ''}"
        )
    record = record_of(found.reading, sources, reader_version=READERS_VERSION, part=part)
    return record if found.lengths is None else with_lengths(record, found.lengths)


def source_of(path: Path, name: str) -> SourceFile:
    """Return what a record keeps of a file that it was read from.

    Raises:
        OSError: it cannot be read.
    """
    if path.name == METRICS and (own := read_metrics_file(path)).rows:
        return SourceFile(name=name, size_bytes=own.size_bytes, sha256=own.sha256, growth=growth(path.name, own.head))
    wanted = DOCUMENT_LIMIT_BYTES + 1 if is_document(path.name) else HEAD_BYTES
    head = bytearray()
    digest = hashlib.sha256()
    size = 0
    with open_regular(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            head += chunk[: wanted - len(head)]
    return SourceFile(name=name, size_bytes=size, sha256=digest.hexdigest(), growth=growth(path.name, bytes(head)))


def _learned(id_: str, new: bool, found: LoggedRun) -> IngestedRun:
    reading = found.reading
    course, costs = reading.course, reading.costs
    return IngestedRun(
        id=id_,
        new=new,
        name=reading.name,
        trainer=reading.stack.trainer,
        model=model_name(reading.model.name),
        to_measure=found.to_measure,
        dataset=reading.dataset.name.value if isinstance(reading.dataset.name, SourcedText) else "",
        steps_done=_followed(course.steps_done, found.sources),
        steps_total=_followed(course.steps_total, found.sources),
        seconds_per_step=_followed(costs.seconds_per_step, found.sources),
        peak_memory=_followed(first(costs.peak_memory), found.sources),
        outcome=_followed(course.outcome, found.sources),
        files=tuple(map(str, found.sources)),
        notes=reading.notes,
    )


def _followed(fact: Fact, sources: Sequence[Path]) -> Fact:
    """Return the fact with the whole path in its place, so that an editor finds it."""
    if isinstance(fact, Missing) or fact.where is None:
        return fact
    for path in sources:
        if fact.where == path.name or fact.where.startswith(f"{path.name}:"):
            return replace(fact, where=str(path) + fact.where[len(path.name) :])
    return fact


# ---- cache of files read before --------------------------------------------------------------------------------------


_LIMIT_GROUPS = 200_000
"""The oldest beyond so many are forgotten."""
_FORM = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedGroup:
    """Result of the files that belong together."""

    state: str
    """Digest of their sizes, times and inodes before they were read."""
    records: tuple[str, ...]
    refused: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cache:
    form: int
    reader_version: int
    groups: dict[str, CachedGroup]


_CACHE = TypeAdapter(_Cache)


class ReadCache:
    """The cache of one history."""

    def __init__(self, history_dir: Path, reader_version: int) -> None:
        self._path = history_dir / ".cache" / "seen.json"
        self._version = reader_version
        self._groups = self._load()
        self._changed = False

    def get(self, files: Sequence[Path], state: str) -> CachedGroup | None:
        """Return the result of these files if they are unchanged."""
        seen = self._groups.get(_key(files))
        return seen if seen is not None and seen.state == state else None

    def put(self, files: Sequence[Path], seen: CachedGroup) -> None:
        """Keep the result of these files."""
        key = _key(files)
        self._groups.pop(key, None)
        self._groups[key] = seen
        self._changed = True

    def save(self) -> None:
        """Write it, where that is possible and anything has changed."""
        if not self._changed:
            return
        kept = dict(list(self._groups.items())[-_LIMIT_GROUPS:])
        cache = _Cache(form=_FORM, reader_version=self._version, groups=kept)
        try:
            if not (self._path.parent / ".gitignore").exists():
                write_atomic(self._path.parent / ".gitignore", "*\n")
            write_atomic(self._path, _CACHE.dump_json(cache))
        except HostError:
            return
        self._changed = False

    def _load(self) -> dict[str, CachedGroup]:
        try:
            data = read_bytes(self._path)
            head = parse_json(data)
            if (head["form"], head["reader_version"]) != (_FORM, self._version):
                return {}
            return _CACHE.validate_python(head).groups
        except (OSError, ValueError, TypeError, KeyError, RecursionError, ValidationError):
            return {}


def state_of(files: Sequence[Path]) -> str | None:
    """Return a digest of the files' sizes, times of change and inodes; None if one is not accessible."""
    digest = hashlib.sha256()
    for file in files:
        try:
            found = file.stat()
        except (OSError, ValueError):
            return None
        digest.update(f"{found.st_size} {found.st_mtime_ns} {found.st_ino}\n".encode())
    return digest.hexdigest()[:32]


def _key(files: Sequence[Path]) -> str:
    paths = "\0".join(os.path.abspath(file) for file in files)  # noqa: PTH100 (the disk is not asked)
    return hashlib.sha256(paths.encode("utf-8", "surrogateescape")).hexdigest()[:32]
