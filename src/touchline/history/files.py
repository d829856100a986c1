"""Files and folders become readings: called by `history read`, `history import` and all who need a log's values."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.backends.logtext.numbers import not_a_number, to_count, to_number
from touchline.core.callbacks import NamedProgressCallback
from touchline.core.errors import InputError
from touchline.core.files import open_regular, read_head
from touchline.core.json_text import parse_json
from touchline.core.observation import Event, Observation, Sign, SignKind, Stamp
from touchline.data.metrics_file import METRICS, OWN_MARK, read_metrics_file
from touchline.experiment.document import SIZE_LIMIT_BYTES, parse
from touchline.history.fields import reading_of
from touchline.history.file_segment import FileSegment
from touchline.history.grouping import FileGroup, group_files, role_of
from touchline.history.lines import NotTextError
from touchline.history.loops.vocabulary import Concept, Split, meaning_of
from touchline.history.own_metrics import own_segments
from touchline.history.padding import DatasetLengths
from touchline.history.readers import documents
from touchline.history.reading import RunReading
from touchline.history.run_view import RunSegment, RunView, align, runs_of
from touchline.history.scan import Scan
from touchline.history.segments import FileSegmenter
from touchline.history.stating import NOTHING_STATED, StatedFacts, Stating
from touchline.slurm.resources import read_sbatch

__all__ = ["FileGroup", "LoggedRun", "SkippedFile", "find_runs", "group_files", "read_group"]

_HEADER_BYTES = 2048
_JSON_LIMIT_BYTES = 256 << 20
"""A trainer_state.json of a long run has tens of MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedRun:
    """Run with the files that report it."""

    reading: RunReading
    """Reading of the files."""
    sources: tuple[Path, ...]
    """Every file that was read: logs, state files, configs, files of facts."""
    stated: StatedFacts = NOTHING_STATED
    """Facts that the user stated."""
    lengths: DatasetLengths | None = None
    """The lengths of the dataset that was stated, where they could be measured."""
    to_measure: str = ""
    """What to do so that a dataset that could not be measured can be; empty if it was, or if nothing helps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedFile:
    """A file of which nothing was learned."""

    path: Path
    """The file."""
    reason: str
    """Reason."""


def find_runs(
    paths: Sequence[Path],
    on_progress: NamedProgressCallback | None = None,
    stating: Stating | None = None,
) -> Iterator[LoggedRun | SkippedFile]:
    """Yield the runs in files and folders; logs are paired with each other, with state files and configs.

    Args:
        paths: files and folders; for a named file, the files of its run in the same folder are read too.
        on_progress: called as the work advances: groups done, groups in all, the group's name.
        stating: what options state of them; files of facts beside them are read in any case.

    Raises:
        InputError: a file of facts is wrong.
    """
    groups = group_files(paths)
    stating = stating or Stating()
    stating.load(groups)
    for number, group in enumerate(groups):
        if on_progress is not None:
            on_progress(number, len(groups), group.key)
        yield from read_group(group, stating.of(group))
    if on_progress is not None:
        on_progress(len(groups), len(groups), "")


def read_group(group: FileGroup, stated: StatedFacts = NOTHING_STATED) -> list[LoggedRun | SkippedFile]:
    """Read the files of one group: one run, several when one file holds several, or why there is none."""
    refused: list[LoggedRun | SkippedFile] = []
    notes: list[str] = []
    logs: list[list[FileSegment]] = []
    beside: list[list[FileSegment]] = []
    for path in group.files:
        try:
            own = _own(path, notes)
            role = "log" if own is not None else "table" if _is_table(path) else role_of(path)
            segmenter = own or (_scan(path, notes) if role == "log" else _document(path, role))
        except (NotTextError, InputError, OSError) as fault:
            refused.append(SkippedFile(path=path, reason=_reason(fault)))
            continue
        parts = [part for part in segmenter.parts if part.has_evidence or part.advance_line]
        if parts:
            (logs if role in ("log", "table") else beside).append(parts)
    found: list[LoggedRun | SkippedFile] = []
    if not any(part.has_progress or part.seen for parts in logs for part in parts):
        logs, beside = (
            [*logs, *(each for each in beside if shows_training(each))],
            [each for each in beside if not shows_training(each)],
        )
    runs = [run for run in runs_of(align(logs)) if any(_is_run(segment) for segment in run)]
    side = RunSegment(parts=tuple(part for parts in beside for part in parts))
    for number, run in enumerate(runs, 1):
        name = group.key if len(runs) == 1 else f"{group.key}#{number}"
        files = tuple(path.name for path in group.files)
        reading = reading_of(name, files, RunView(segments=tuple(run), documents=side, stated=stated.facts), notes)
        found.append(LoggedRun(reading=reading, sources=(*group.files, *group.facts), stated=stated))
    if not found and not refused:
        refused = [SkippedFile(path=path, reason=_nothing(path)) for path in group.files[:1]]
    return found + refused


def _is_table(path: Path) -> bool:
    """Return True if a log is a table of metrics, whatever its name."""
    if role_of(path) != "log" or path.suffix.lower() == ".gz":
        return False
    return begins_table(read_head(path, _HEADER_BYTES).decode("utf-8", "replace"))


def _own(path: Path, notes: list[str]) -> FileSegmenter | None:
    """Return the course of touchline's own metrics.jsonl; None for every other file."""
    if path.name != METRICS and (path.suffix != ".jsonl" or OWN_MARK not in read_head(path, _HEADER_BYTES)):
        return None
    found = read_metrics_file(path)
    if not found.metrics.attempts:
        return None
    if found.metrics.torn_lines:
        notes.append(f"{path.name}: {found.metrics.torn_lines} lines were cut off and are not counted")
    return own_segments(path.name, found.rows)


def _scan(path: Path, notes: list[str]) -> FileSegmenter:
    scan = Scan(path, path.name)
    segmenter = scan.run()
    notes.extend(f"{path.name}: {note}" for note in scan.file.notes)
    if scan.file.cut_lines:
        notes.append(f"{path.name}: {scan.file.cut_lines} lines over 1 MiB, of which only head and tail were read")
    if scan.file.unterminated:
        notes.append(f"{path.name}: the last line has no end and was read as far as it is whole")
    return segmenter


def _document(path: Path, role: str) -> FileSegmenter:
    segmenter = FileSegmenter(path.name)
    if role == "table":
        for event in read_metrics_table(_bounded(path, _JSON_LIMIT_BYTES)) or ():
            segmenter.feed(event)
        segmenter.close()
        return segmenter
    if role == "script":
        for event in read_sbatch(_bounded(path, SIZE_LIMIT_BYTES)):
            segmenter.feed(event)
        return segmenter
    if path.suffix.lower() == ".json":
        try:
            data: object = parse_json(_bounded(path, _JSON_LIMIT_BYTES))
        except (ValueError, RecursionError) as error:
            raise InputError(f"no JSON: {error}") from None
    else:
        data = parse(_bounded(path, SIZE_LIMIT_BYTES), path.name).data
    for event in _read_document(path.name, data):
        segmenter.feed(event)
    segmenter.close()
    return segmenter


def _read_document(name: str, data: object) -> tuple[Event, ...]:
    """Return what the first reader that knows a document says of it."""
    found = (reader(name, data) for reader in documents()) if isinstance(data, dict) else ()
    return next((events for events in found if events is not None), ())


def _bounded(path: Path, limit: int) -> str:
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"larger than {limit >> 20} MiB")
    return data.decode("utf-8-sig", "replace")


def shows_training(parts: Sequence[FileSegment]) -> bool:
    """Return True if a document is of a run's course, and not only of its settings."""
    return any(part.has_progress or part.get("train_seconds") or part.get("step") for part in parts)


def _is_run(segment: RunSegment) -> bool:
    """Return True if a segment has a value that only a run has."""
    # An evaluation alone is no training.
    progressed = any(
        part.has_progress or part.kinds - {SignKind.EVALUATING} or len(part.seen) > 1 for part in segment.parts
    )
    return progressed or (bool(segment.all("trainer")) and bool(segment.training_tracks(None)))


def _reason(fault: Exception) -> str:
    if isinstance(fault, InputError):
        return "; ".join([fault.message, *(finding.message for finding in fault.findings)])
    if isinstance(fault, OSError):
        return fault.strerror or str(fault)
    return str(fault)


def _nothing(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    if path.stat().st_size == 0:
        return "an empty file"
    if role_of(path) not in ("log", "table"):
        return "a configuration or document without a run; name the run's log with it"
    return "no line of a training in it"


# ---- tables of metrics -----------------------------------------------------------------------------------------------


_STEP_COLUMNS = ("train/global_step", "global_step", "step", "trainer/global_step", "iteration", "iter", "_step")
_EPOCH_COLUMNS = ("epoch", "train/epoch")
_CLOCK_COLUMNS = ("_runtime", "_timestamp", "relative time (process)", "wall time")
"""Columns of seconds since a fixed moment."""
_HEADER = re.compile(
    r"(?=[^\n]*(?:step|iter|epoch))(?=[^\n]*loss)(?:[a-z_/]{1,30}[,\t]){1,40}[a-z_/]{1,30}\r?\n\s*-?[\d.]",
    re.IGNORECASE,
)
_SUFFIXES = ("_step", "_epoch")
_MOST_COLUMNS = 1000


def begins_table(text: str) -> bool:
    """Return True if a file's first line is the header of a table of metrics: `step,loss`, with commas or tabs."""
    return _HEADER.match(text) is not None


def read_metrics_table(text: str) -> tuple[Event, ...] | None:
    """Return the events of a table of metrics; None for any other text.

    A table has a column of steps or epochs and one of losses. Some loggers count steps from 0, and write a row for
    the training and one for the validation of the same step, each with the other's columns empty.
    """
    text = text.lstrip("\ufeff").replace("\0", "")
    rows = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    try:
        return _events([name.strip() for name in next(rows, [])], rows)
    except csv.Error:
        return None


def _events(header: list[str], rows: Iterator[list[str]]) -> tuple[Event, ...] | None:
    if not 2 <= len(header) <= _MOST_COLUMNS:
        return None
    columns = _Columns(header)
    if (columns.losses or columns.validations) and (columns.step is not None or columns.epoch is not None):
        return tuple(columns.events(rows))
    return None


class _Columns:
    """Columns by what they hold."""

    def __init__(self, header: Sequence[str]) -> None:
        plain = [name.lower() for name in header]
        self.step = next((plain.index(name) for name in _STEP_COLUMNS if name in plain), None)
        self.epoch = next((plain.index(name) for name in _EPOCH_COLUMNS if name in plain), None)
        self.clock = next((plain.index(name) for name in _CLOCK_COLUMNS if name in plain), None)
        self.losses: list[int] = []
        self.validations: list[int] = []
        for index, name in enumerate(plain):
            bare = next((name.removesuffix(each) for each in _SUFFIXES if name.endswith(each)), name)
            meaning = meaning_of(bare)
            if meaning.concept is not Concept.LOSS or index in (self.step, self.epoch):
                continue
            if meaning.split is Split.VALIDATION:
                self.validations.append(index)
            elif meaning.split is not Split.TEST:
                self.losses.append(index)
        # The mean of an epoch is no last loss, where the losses of steps have a column of their own.
        of_steps = [index for index in self.losses if not plain[index].endswith("_epoch")]
        self.losses = of_steps or self.losses

    def events(self, rows: Iterator[list[str]]) -> Iterator[Event]:
        """Yield the events of the rows below the header."""
        offset: int | None = None
        for number, row in enumerate(rows, 2):
            step = to_count(_cell(row, self.step))
            epoch = to_number(_cell(row, self.epoch))
            if step is None and epoch is None:
                continue
            if step is not None:
                # The first row of a count from 0 stands one before a whole number of intervals.
                offset = (1 if (step + 1) % 5 == 0 else 0) if offset is None else offset
                step += offset
            seconds = to_number(_cell(row, self.clock))
            if seconds is not None:
                yield Stamp(seconds, number)
            value = next((cell for column in self.losses if (cell := _cell(row, column))), "")
            at = None if step is not None else epoch
            loss = to_number(value)
            if loss is not None:
                yield Observation(name="loss", value=loss, line=number, unit="nats", step=step, epoch=at, certain=False)
            elif not_a_number(value):
                yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=",".join(row)[:300], step=step)
            held_out = next((cell for column in self.validations if (cell := _cell(row, column))), "")
            val = to_number(held_out)
            if val is not None:
                yield Observation(
                    name="eval_loss", value=val, line=number, unit="nats", step=step, epoch=at, certain=False
                )


def _cell(row: Sequence[str], index: int | None) -> str:
    return row[index].strip() if index is not None and index < len(row) else ""
