"""Files and folders become readings: called by `history read`, `history import` and all who need a log's values."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchline.backends.logtext.events import EventEmitter
from touchline.backends.logtext.parts import to_number
from touchline.core.callbacks import NamedProgressCallback
from touchline.core.errors import InputError
from touchline.core.files import open_regular, read_head
from touchline.core.json_text import parse_json
from touchline.core.observation import Event, SignKind, Stamp
from touchline.data.metrics_file import METRICS, OWN_MARK, read_metrics_file
from touchline.experiment.document import SIZE_LIMIT_BYTES, parse
from touchline.history.fields import reading_of
from touchline.history.file_segment import FileSegment
from touchline.history.grouping import FileGroup, group_files, role_of
from touchline.history.loop_lines import DictRowParser
from touchline.history.own_metrics import own_segments
from touchline.history.padding import DatasetLengths
from touchline.history.readers import documents
from touchline.history.record import RunRecord
from touchline.history.run_view import RunSegment, RunView, align, runs_of
from touchline.history.scan import LineFile, NotTextError, Scan
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

    reading: RunRecord
    """Its record without sources; names and paths are as the log has them."""
    sources: tuple[Path, ...]
    """Every file that was read: logs, state files, configs, files of facts."""
    files: tuple[str, ...] = ()
    """Names of those without the files of facts."""
    stated: StatedFacts = NOTHING_STATED
    lengths: DatasetLengths | None = None
    """The lengths of the dataset that was stated, where they could be measured."""
    to_measure: str = ""
    """What to do so that a dataset that could not be measured can be; empty if it was, or if nothing helps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedFile:
    """A file of which nothing was learned."""

    path: Path
    reason: str


def find_runs(
    paths: Sequence[Path],
    on_progress: NamedProgressCallback | None = None,
    stating: Stating | None = None,
) -> Iterator[LoggedRun | SkippedFile]:
    """Yield the runs in files and folders; logs are paired with each other, with state files and configs.

    Args:
        paths: files and folders; for a named file, the files of its run in the same folder are read too.
        stating: what options state of them; files of facts next to them are read in any case.

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
            segmenter = own or (_log(path, notes) if role == "log" else _document(path, role))
        except (NotTextError, InputError, OSError) as fault:
            refused.append(SkippedFile(path=path, reason=refusal(fault)))
            continue
        parts = [part for part in segmenter.parts if part.has_evidence or part.advance_line]
        if parts:
            (logs if role in ("log", "table") else beside).append(parts)
    found: list[LoggedRun | SkippedFile] = []
    others = any(_is_other_work(part) for parts in logs for part in parts)
    runs, side = runs_in(logs, beside)
    for number, run in enumerate(runs, 1):
        name = group.key if len(runs) == 1 else f"{group.key}#{number}"
        files = tuple(path.name for path in group.files)
        reading = reading_of(name, RunView(segments=tuple(run), documents=side, stated=stated.facts), notes)
        found.append(LoggedRun(reading=reading, sources=(*group.files, *group.facts), files=files, stated=stated))
    if not found and not refused:
        reason = "an evaluation or a prediction, and no lines of a training run" if others else ""
        refused = [SkippedFile(path=path, reason=reason or _nothing(path)) for path in group.files[:1]]
    return found + refused


def _is_table(path: Path) -> bool:
    if role_of(path) != "log" or path.suffix.lower() == ".gz":
        return False
    return _HEADER.match(read_head(path, _HEADER_BYTES).decode("utf-8", "replace")) is not None


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


def scan_log(path: Path, segmenter: FileSegmenter) -> tuple[LineFile, list[str]]:
    """Feed a segmenter with the lines of a log; return the file as it was read, and notes on what was not read.

    Raises:
        NotTextError: it is binary.
        OSError: it cannot be read.
    """
    file = Scan(path, segmenter).run()
    notes = list(file.notes)
    if file.cut_lines:
        notes.append(f"{file.cut_lines} lines over 1 MiB (only start and end were read)")
    if file.unterminated:
        notes.append("the last line is incomplete")
    return file, notes


def _log(path: Path, notes: list[str]) -> FileSegmenter:
    segmenter = FileSegmenter(path.name)
    notes.extend(f"{path.name}: {note}" for note in scan_log(path, segmenter)[1])
    return segmenter


def _document(path: Path, role: str) -> FileSegmenter:
    segmenter = FileSegmenter(path.name)
    if role == "table":
        for event in _read_table(_bounded(path, _JSON_LIMIT_BYTES)):
            segmenter.feed(event)
        segmenter.close()
    else:
        read_document(path, segmenter)
    return segmenter


def read_document(path: Path, segmenter: FileSegmenter) -> dict[str, Any]:
    """Feed a segmenter with what a state file, a config or a job script says; return its content, none of a script.

    Raises:
        InputError: it is too large, or neither JSON nor YAML.
        OSError: it cannot be read.
    """
    events: Iterable[Event] = ()
    data: object = {}
    if role_of(path) == "script":
        events = read_sbatch(_bounded(path, SIZE_LIMIT_BYTES))
    elif path.suffix.lower() == ".json":
        try:
            data = parse_json(_bounded(path, _JSON_LIMIT_BYTES))
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {error}") from None
    else:
        data = parse(_bounded(path, SIZE_LIMIT_BYTES), path.name).data
    known = data if isinstance(data, dict) else {}
    if known:
        said = (reader(path.name, known) for reader in documents())
        events = next((found for found in said if found is not None), ())
    for event in events:
        segmenter.feed(event)
    segmenter.close()
    return known


def _bounded(path: Path, limit: int) -> str:
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"larger than {limit >> 20} MiB")
    return data.decode("utf-8-sig", "replace")


def runs_in(
    logs: Sequence[Sequence[FileSegment]], beside: Sequence[Sequence[FileSegment]]
) -> tuple[list[list[RunSegment]], RunSegment]:
    """Return the runs in logs, and what the documents next to them say; without a log, documents show the run."""
    if not any(part.has_progress or part.seen for parts in logs for part in parts):
        logs = [*logs, *(each for each in beside if shows_training(each))]
        beside = [each for each in beside if not shows_training(each)]
    runs = [run for run in runs_of(align(logs)) if any(_is_run(segment) for segment in run)]
    return runs, RunSegment(parts=tuple(part for parts in beside for part in parts))


_OF_TRAINING = frozenset({"loss", "step", "steps_total", "epochs", "eval_loss", "train_seconds", "train_examples"})


def shows_training(parts: Sequence[FileSegment]) -> bool:
    """Return True if a document is of a run's course, and not only of its settings."""
    return any(part.has_progress or part.get("train_seconds") or part.get("step") for part in parts)


def _is_run(segment: RunSegment) -> bool:
    # An evaluation alone is no training.
    progressed = any(
        part.has_progress or part.kinds - {SignKind.EVALUATING} or (len(part.seen) > 1 and not _is_other_work(part))
        for part in segment.parts
    )
    return progressed or (bool(segment.all("trainer")) and bool(segment.training_tracks(None)))


def _is_other_work(part: FileSegment) -> bool:
    """Return True if a part shows an evaluation or a prediction, and nothing that only a training has."""
    return SignKind.EVALUATING in part.kinds and part.seen.keys().isdisjoint(_OF_TRAINING)


def refusal(fault: Exception) -> str:
    """Return why a file gives no run, in a few words."""
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
        return "a config or document without a run (give it together with the run's log)"
    return "no lines of a training run"


# ---- tables of metrics -----------------------------------------------------------------------------------------------


_HEADER = re.compile(
    r"(?=[^\n]*(?:step|iter|epoch))(?=[^\n]*loss)(?:[a-z_/]{1,30}[,\t]){1,40}[a-z_/]{1,30}\r?\n\s*-?[\d.]",
    re.IGNORECASE,
)
"""The first line of a table of metrics, `step,loss` with commas or tabs, and the beginning of the next one."""


def _read_table(text: str) -> Iterator[Event]:
    """Yield the events of a table of metrics, whose rows say what a loop's printed dictionaries say."""
    text = text.lstrip("\ufeff").replace("\0", "")
    parser = DictRowParser(EventEmitter())
    try:
        rows = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
        # The mean of an epoch is no last loss, where the losses of steps have a column of their own.
        means = {
            name for name in rows.fieldnames or () if name.removesuffix("_epoch") + "_step" in (rows.fieldnames or ())
        }
        for number, row in enumerate(rows, 2):
            cells = {name: cell.strip() for name, cell in row.items() if isinstance(cell, str) and name not in means}
            named = {str(name).strip().removeprefix("_"): cell for name, cell in cells.items() if cell}
            seconds = to_number(named.pop("runtime", named.pop("timestamp", None)))
            if seconds is not None:
                yield Stamp(seconds, number)
            yield from parser.row(named, "", number)
    except csv.Error:
        return
