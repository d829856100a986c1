"""A reading becomes a record, a record bytes, and bytes a file of the history: the same reading, the same bytes.

What identifies the reader or the machine is taken out: files are named from the folder that they have in common,
absolute paths in copied lines keep only their last part, secrets are redacted.

history/records/ab/abcdef....json    a record, named by the hash of its content, written once, never changed
history/index.jsonl                  the rows of `list`; made from the records, again when it is lost or stale
history/.cache/                      which files were read before (`adding.py`); may be lost at any time

Equal records have equal names, so writers on any number of nodes need no lock, and two histories are merged by copying
one over the other. A file that is no record is named and skipped; it never keeps the others from being read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from touchline.backends.logtext.parts import redact
from touchline.core.errors import HostError, InputError, quoted
from touchline.core.files import open_regular, read_bytes, write_atomic
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.text import valid_utf8, without_controls
from touchline.history.reading import OptionalText, SourcedText
from touchline.history.record import RECORD_SCHEMA_VERSION, RunRecord, SourceFile

_NO_NUMBER = Missing(missing="not a finite number")
_RECORD = TypeAdapter(RunRecord)
_PART = r"[^\s/'\"`:,;()\[\]{}<>|=]+"
_ABSOLUTE = re.compile(
    rf"(?:(?<![\w./~…])|(?<=file://))(?:~[\w.-]*|/{_PART})(?:/+{_PART})+/*|(?<!\w)[A-Za-z]:(?:\\+[^\s\\'\"]+)+"
)
_QUOTED = re.compile(r"(['\"`])(?:~[\w.-]*)?/[^'\"`\n]*/([^'\"`\n/]*)/?\1")
_HUB = re.compile(r"models--([^/\\]+?)--([^/\\]+)")
_ROOT_PARTS = 3
"""`/home/name` has so many: a folder above that is not a run's own, and its children may be people."""

T = TypeVar("T")


# ---- reading -> record -----------------------------------------------------------------------------------------------


def source_names(paths: Sequence[PurePath]) -> dict[str, str]:
    """Return the name of each source in a record, by its path as text.

    Files of one folder have their own names; others are named from the folder that they have in common.
    """
    parents = [path.parent.parts for path in paths]
    shared = 0
    while all(len(parts) > shared and parts[shared] == parents[0][shared] for parts in parents) and parents:
        shared += 1
    if shared < _ROOT_PARTS:
        return {str(path): path.name for path in paths}
    return {str(path): "/".join(path.parts[shared:]) for path in paths}


def record_of(
    reading: RunRecord, sources: Mapping[str, SourceFile], *, reader_version: int, part: int = 0
) -> RunRecord:
    """Return the record of an imported run.

    Args:
        sources: the files by the path that the reading's places name them with.
        part: which of the runs in these files it is, from 0.
    """
    record = dataclasses.replace(
        reading,
        reader_version=reader_version,
        part=part,
        model=dataclasses.replace(reading.model, name=model_name(reading.model.name)),
        dataset=dataclasses.replace(reading.dataset, name=model_name(reading.dataset.name)),
        stack=dataclasses.replace(reading.stack, versions=tuple(sorted(set(reading.stack.versions)))),
        sources=tuple(sorted(sources.values(), key=lambda source: (source.name, source.sha256))),
    )
    return sealed(_placed(record, {path: source.name for path, source in sources.items()}))


def sealed(record: RunRecord) -> RunRecord:
    """Return the record without personal data, and with the fingerprint of its settings.

    Callers that change a record, as for our own runs, need not call this: storing does.
    """
    clean = _mapped(record, _clean_leaf)
    settings = comparable(clean)
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return dataclasses.replace(
        clean,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        fingerprint_unknown=tuple(sorted(name for name, value in settings.items() if value is None)),
    )


def comparable(record: RunRecord) -> dict[str, object]:
    """Return the settings that make two runs comparable in time and memory; None for unknown ones."""
    r = record
    targets = _word(r.training.target_modules)
    versions = sorted(re.sub(r"(=\d+\.\d+)[.\d]*.*", r"\1", text) for text in r.stack.versions)
    return {
        "model": (_word(r.model.name) or "").rsplit("/", 1)[-1] or None,
        "method": _word(r.training.method),
        "rank": _number(r.training.rank),
        "target_modules": sorted({name.strip() for name in targets.split(",")}) if targets else None,
        "base_dtype": _word(r.training.base_dtype),
        "adapter_dtype": _word(r.training.adapter_dtype),
        "quantization": _word(r.training.quantization),
        "gradient_checkpointing": _word(r.training.gradient_checkpointing),
        "attention": _word(r.training.attention),
        **({"compiled": True} if _word(r.training.compiled) == "true" else {}),
        "trainer": _word(r.stack.trainer),
        "versions": versions or None,
        "gpu": _folded(r.machine.key),
        "micro_batch_size": _number(r.batching.micro_batch_size),
        "max_seq_len": _number(r.batching.max_seq_len),
        "packed": _word(r.packing.packed),
    }


def model_name(model: OptionalText) -> OptionalText:
    """Return a model's id; of a path the last part, which is its name everywhere."""
    if isinstance(model, Missing):
        return model
    text = model.value.strip()
    if cached := _HUB.search(text):
        return dataclasses.replace(model, value=f"{cached[1]}/{cached[2]}")
    if text.count("/") > 1 or text.startswith(("/", "~", ".")) or "\\" in text:
        text = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return dataclasses.replace(model, value=text)


def redact_paths(text: str) -> str:
    """Return a copied line without absolute paths and control characters: `…/last_part` stays of a path."""
    text = _QUOTED.sub(r"\1…/\2\1", valid_utf8(without_controls(text).replace("\n", "")))
    return _ABSOLUTE.sub(lambda match: "…/" + re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], text)


def _word(value: OptionalText) -> str | None:
    return _folded(value.value) if isinstance(value, SourcedText) else None


def _folded(text: str | None) -> str | None:
    """Return the text without case and repeated spaces, which do not part settings."""
    return None if text is None else " ".join(text.casefold().split())


def _number(value: Measured) -> float | None:
    return float(value.value) if isinstance(value, Quantity) else None


# ---- every leaf of a record ------------------------------------------------------------------------------------------


Leaf = Callable[[str, str], str]
"""Another text for a text, by the field that holds it."""


def _mapped(value: T, leaf: Leaf) -> T:
    """Return the same tree with other texts; a quantity that is not a finite number becomes missing."""
    changed: Any = value
    if isinstance(value, Quantity) and not math.isfinite(value.value):
        changed = _NO_NUMBER
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        changed = dataclasses.replace(value, **{name: _member(name, part, leaf) for name, part in members.items()})
    return changed  # type: ignore[no-any-return]


def _member(name: str, part: object, leaf: Leaf) -> object:
    if isinstance(part, tuple):
        inner = tuple(_member(name, each, leaf) for each in part)
        finite = tuple(each for each in inner if each is not _NO_NUMBER)
        return finite if finite or not inner else _NO_NUMBER
    if isinstance(part, float) and not math.isfinite(part):
        return None  # an interval's open end
    return leaf(name, part) if isinstance(part, str) else _mapped(part, leaf)


_KEPT = frozenset({"sha256", "growth", "fingerprint", "condition", "comparable", "outcomes", "item_scores"})
"""Members with hashes and packed digits, which hold neither secrets nor paths."""


def _clean_leaf(name: str, text: str) -> str:
    """Return the text without secrets and paths; our own vocabulary, hashes and digests stay unchanged."""
    if name in _KEPT or type(text) is not str:
        return text
    return redact_paths(redact(text) if name in ("text", "value", "notes") else text)


def _placed(record: RunRecord, names: Mapping[str, str]) -> RunRecord:
    longest = sorted(names.items(), key=lambda item: -len(item[0]))

    def rename(field: str, text: str) -> str:
        if type(text) is not str:
            return text
        if field != "where":
            for path, name in longest:
                text = text.replace(path, name) if "/" in path else text
            return text
        for path, name in longest:
            if text == path or text.startswith(f"{path}:"):
                return name + text[len(path) :]
        return text.rsplit("/", 1)[-1]

    return _mapped(record, rename)


# ---- record <-> bytes ------------------------------------------------------------------------------------------------


def plain(value: object) -> Any:
    """Return the value as JSON types; members of a quantity or a text that are None are left out."""
    if isinstance(value, Quantity | SourcedText):
        members = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: float(v) if type(v) is int else plain(v) for k, v in members.items() if v is not None}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return valid_utf8(value) if isinstance(value, str) else value


def to_json(record: RunRecord) -> bytes:
    """Return the canonical bytes of a record, one member per line, so that people and git can read them."""
    return (json.dumps(plain(record), ensure_ascii=False, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def id_of(data: bytes) -> str:
    """Return a record's id: the hash of its canonical bytes."""
    return hashlib.sha256(data).hexdigest()


def from_json(data: bytes) -> RunRecord:
    """Return the record of its bytes.

    Raises:
        InputError: with the reason in a few words: it is not a record, a broken one, or one of another version.
    """
    try:
        version = parse_json(data)["schema_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError("not a run record") from None
    if version != RECORD_SCHEMA_VERSION:
        raise InputError(f"schema version {version!r}, but this touchline reads version {RECORD_SCHEMA_VERSION}")
    try:
        return _RECORD.validate_json(data, strict=True, extra="forbid")
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][:4])
        raise InputError(f"not a run record: {place}: {first['msg']}") from None


HEAD_BYTES = 1 << 20
"""Bytes at a log's beginning that are compared: megabytes of equal lines are not a coincidence."""
_EACH = 64
_FACTOR = 1.09
_DIGITS = 8
_DOCUMENTS = (".json", ".yaml", ".yml", ".toml", ".sh", ".slurm", ".sbatch")
_LINE_END = re.compile(rb"[\r\n]")
DOCUMENT_LIMIT_BYTES = 64 << 20
"""A larger document is not parsed."""


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


RECORD_LIMIT_BYTES = 4 << 20
"""A record takes some ten kilobytes; a larger file is none."""
_SHELF = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"([0-9a-f]{64})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A file in the history that is not a record."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Files of a history by their names, none of them opened."""

    records: Mapping[str, Path] = field(default_factory=dict)
    """File of each record, by its id, sorted."""
    strays: tuple[Broken, ...] = ()


def store_record(history_dir: Path, record: RunRecord) -> Path:
    """Put a record into the history, unless it is there, and give its file; it is on disk when this returns.

    Raises:
        InputError: the history is not a folder.
        HostError: no space, or no permission.
    """
    data = to_json(sealed(record))
    path = record_path(history_dir, id_of(data))
    try:
        if path.is_file() and path.stat().st_size == len(data) and read_bytes(path) == data:
            return path
        # What else has this name was copied by half, and is mended.
        write_atomic(path, data)
    except (NotADirectoryError, FileExistsError):
        raise InputError(
            f"the history {str(history_dir)!r} is not a folder",
            expected="a folder, or a path where one can be created",
            hint="touchline history list --history DIR, or TOUCHLINE_HISTORY_DIR=DIR",
        ) from None
    return path


def record_id(record: RunRecord) -> str:
    """Return the id under which `store_record` stores a record."""
    return id_of(to_json(sealed(record)))


def record_path(history_dir: Path, id_: str) -> Path:
    """Return the path of the record of that id."""
    return history_dir / "records" / id_[:2] / f"{id_}.json"


def contents(history_dir: Path) -> Contents:
    """Return the files of a history; a missing one is empty.

    Raises:
        InputError: it is not a folder.
        HostError: it may not be read.
    """
    if history_dir.exists() and not history_dir.is_dir():
        raise InputError(f"the history {str(history_dir)!r} is a file", expected="a folder")
    found: dict[str, Path] = {}
    strays: list[Broken] = []
    for shelf, name in _files(history_dir / "records"):
        path = history_dir / "records" / shelf / name
        match = _NAME.fullmatch(name)
        if match is None or match[1][:2] != shelf:
            strays.append(Broken(path=path, reason="not the name of a record"))
        else:
            found[match[1]] = path
    return Contents(records=dict(sorted(found.items())), strays=tuple(strays))


def _files(records: Path) -> Iterator[tuple[str, str]]:
    """Yield folder and name of every file, except hidden ones: other programs' files, or interrupted writes."""
    try:
        with os.scandir(records) as entries:
            shelves = sorted(entry.name for entry in entries if _SHELF.fullmatch(entry.name) and entry.is_dir())
        for shelf in shelves:
            with os.scandir(records / shelf) as entries:
                yield from ((shelf, entry.name) for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise HostError(
            f"no permission to read the history {str(error.filename)!r}", hint=f"ls -ld {quoted(str(error.filename))}"
        ) from None


def read_record(path: Path) -> RunRecord | Broken:
    """Return the record in a file of the history, whose name must be the hash of its content."""
    try:
        with open_regular(path) as stream:
            data = stream.read(RECORD_LIMIT_BYTES + 1)
    except OSError as error:
        return Broken(path=path, reason=f"cannot be read: {error.strerror or error}")
    if len(data) > RECORD_LIMIT_BYTES:
        return Broken(path=path, reason=f"larger than {RECORD_LIMIT_BYTES:,} bytes")
    if id_of(data) != path.stem:
        return Broken(path=path, reason="its content does not match its name (incomplete copy, or edited)")
    try:
        return from_json(data)
    except InputError as fault:
        return Broken(path=path, reason=fault.message)
