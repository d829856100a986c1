"""Files of a dataset: their states, what is known of them from the cache, the splits they hold, shared rows."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from touchline.core.catalog import SEPARATE_FILES, SPLITS_IN_FILE, DatasetInfo, Example, SplitInfo
from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import has_half_characters
from touchline.core.near import near_names
from touchline.core.text import shorten
from touchline.data.create import count_words
from touchline.data.readers import FORMATS, WHOLE, RawDataset, SourceRow
from touchline.experiment.data_config import DataConfig, is_test, shown_split, split_of
from touchline.experiment.tasks.ready_made import split_sizes

_GENERATED = re.compile(r"words_(\d+)L_(\d+(?:\.\d+)?)P_(\d+)\.json")
_NAMES_SHOWN = 20
_KEPT_BYTES = 32 << 20
"""Bytes of the files whose rows stay in memory; the last two stay, whatever their size."""


@dataclass(frozen=True, slots=True)
class FileState:
    """State of a file; any write to it changes one of these."""

    path: Path
    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """Files of a dataset."""

    by_key: tuple[tuple[str, FileState], ...]
    """Each file by the dotted key that names it, as in `DataConfig.files`."""

    @property
    def path(self) -> Path:
        """Return the file that names the dataset."""
        return self.by_key[0][1].path

    @property
    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum(file.size_bytes for _, file in self.by_key)


class _Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


_F = TypeVar("_F", bound=_Sized)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class KeptWhileSmall(Generic[_F, _P, _T]):
    """Function of files that keeps its last results, as long as their files are small.

    A command asks for the rows of each dataset a dozen times, and an experiment may have many datasets.
    """

    def __init__(self, function: Callable[Concatenate[_F, _P], _T]) -> None:
        self._function = function
        self._kept: dict[tuple[object, ...], tuple[int, _T]] = {}

    def __call__(self, file: _F, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return the kept result, or call the function."""
        key = (file, *args, *kwargs.items())
        found = self._kept.pop(key, None) or (file.size_bytes, self._function(file, *args, **kwargs))
        self._kept[key] = found
        while len(self._kept) > 2 and sum(size for size, _ in self._kept.values()) > _KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        return found[1]

    def cache_clear(self) -> None:
        """Forget all results."""
        self._kept.clear()


def find_files(data: DataConfig, base: Path) -> FoundFiles:
    """Return the files of a dataset, links resolved.

    Raises:
        InputError: some are missing, or are folders; with a finding for each.
    """
    found: list[tuple[str, FileState]] = []
    faults: list[InputError] = []
    for key, written in data.files.items():
        try:
            found.append((key, _find(key, written, base)))
        except InputError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        findings = [
            finding
            for fault in faults
            for finding in fault.findings or [_finding("DA101", "data", fault.message, fault.hint)]
        ]
        raise InputError(f"{len(faults)} dataset files cannot be used", findings=findings)
    return FoundFiles(tuple(found))


def _find(key: str, written: str, base: Path) -> FileState:
    try:
        path = (base / Path(written).expanduser()).resolve(strict=True)
        stat = path.stat()
        if not path.is_file():
            there = sorted(name for name in _names(path) if FORMATS.get(PurePath(name).suffix.lower()))
            raise InputError(
                f"dataset {written!r} is a folder",
                expected="a JSON, JSONL, CSV or parquet file, with splits in a column 'split' or an object "
                "{train: [...], test: [...]}",
                hint=f"data files in it: {', '.join(there[:_NAMES_SHOWN])}" if there else None,
            )
    except (OSError, RuntimeError, ValueError):
        # Not there, a name of another user's home, too long a name, a ring of links: there is no such file.
        raise _missing(key, written, base) from None
    return FileState(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _missing(key: str, written: str, base: Path) -> InputError:
    path = base / written
    hint = None
    if (made := _GENERATED.fullmatch(path.name)) is not None:
        length, percent, count = made.groups()
        there = count_words(int(length)) if len(length) < 4 else 0
        if int(count) > there:
            # A command that cannot succeed is no help: offer the largest set that exists.
            count = str(there)
        hint = (
            f"touchline data create capitalization --word-length {length} --num-words {count} "
            f"--train-fraction {float(percent) / 100:g} --out-dir {shlex.quote(str(path.parent))}"
        )
        if count != made.group(3):
            hint = f"only {int(count):,} words of {length} letters are included: {hint}, or --words FILE"
        if not there:
            hint = "touchline data create capitalization --words FILE (no words of that length are included)"
    elif near := near_names(path.name, _names(path.parent), most=3, cutoff=0.5):
        hint = f"similar names: {', '.join(near)}"
    message = f"dataset {written!r} does not exist (looked for {str(path)!r})"
    return InputError(f"dataset {written!r} does not exist", findings=[_finding("DA101", key, message, hint)])


def _finding(code: str, subject: str, message: str, hint: str | None) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


_VERSION = 3
"""Version of the cache; it changes if the same file would be described differently."""
_LIMIT_BYTES = 16 << 20
_DATA = TypeAdapter(DataConfig)
_INFO = TypeAdapter(DatasetInfo)
Columns = dict[str, dict[str, int]]
"""Number of values of each type per column."""
_COLUMNS = TypeAdapter(Columns)


def known_dataset(
    cache_dir: Path, places: Mapping[str, str], data: DataConfig, hashes: Mapping[str, str]
) -> DatasetInfo | None:
    """Return the cached description of files with this content, paths and settings. None if there is none."""
    if any(map(has_half_characters, places.values())):
        return None
    try:
        text = read_text_bounded(_place(cache_dir, places, data, hashes), _LIMIT_BYTES)
        return _INFO.validate_json(text, strict=True)
    except (InputError, HostError, OSError, ValidationError):
        return None


def keep_dataset(
    cache_dir: Path, places: Mapping[str, str], data: DataConfig, hashes: Mapping[str, str], info: DatasetInfo
) -> None:
    """Cache a description. Write errors are ignored."""
    # JSON holds no name that is not UTF-8.
    if any(map(has_half_characters, places.values())):
        return
    try:
        write_atomic(_place(cache_dir, places, data, hashes), _INFO.dump_json(info))
    except (HostError, OSError):
        return


def known_columns(cache_dir: Path, sha256: str) -> Columns | None:
    """Return the cached columns of a file with this content and suffix. None if there are none."""
    try:
        return _COLUMNS.validate_json(read_text_bounded(cache_dir / "columns" / f"{sha256}.json", _LIMIT_BYTES))
    except (InputError, HostError, OSError, ValidationError):
        return None


def keep_columns(cache_dir: Path, sha256: str, columns: Columns) -> None:
    """Cache the columns of a file."""
    try:
        write_atomic(cache_dir / "columns" / f"{sha256}.json", _COLUMNS.dump_json(columns))
    except (HostError, OSError):
        return


def _place(cache_dir: Path, places: Mapping[str, str], data: DataConfig, hashes: Mapping[str, str]) -> Path:
    # In order: of several test sets the first is the test split.
    settings = json.loads(_DATA.dump_json(data.as_file("")))
    identity = [_VERSION, [*places.items()], [*hashes.values()], settings]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache_dir / "datasets" / f"{key}.json"


SPLITS = ("train", "validation", "test")
WITHOUT_TEST = "data.test"
"""Subject of the error that there are no test rows, which a training does not need."""
_QUOTED = 60
"""Characters of a text that a message shows."""
_SHOWN = 3


def file_splits(
    raw: RawDataset, data: DataConfig, path: Path, findings: list[Finding]
) -> tuple[dict[str, list[SourceRow]], str]:
    """Return the file's splits, train first, or random ones by `split_seed`, and their origin in words."""
    if WHOLE not in raw.splits:
        found = {name: raw.splits[name] for name in SPLITS if name in raw.splits}
        findings += _faults_of_splits(found, path)
        return found, SPLITS_IN_FILE
    rows = raw.splits[WHOLE]
    train, validation, test = split_sizes(len(rows), data.train_fraction)
    if min(train, test) < 1:
        count = "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
        message = f"{count} too few to split at train_fraction {data.train_fraction:g}"
        findings.append(dataset_error("DA104", path, message, "give more rows, or a file with splits"))
        return {"train": rows}, "none"
    order = np.random.Generator(np.random.PCG64(data.split_seed)).permutation(len(rows))
    shuffled = [rows[index] for index in order]
    made = {"train": shuffled[:train]}
    if validation:
        made["validation"] = shuffled[train : train + validation]
    made["test"] = shuffled[train + validation :]
    return made, f"random {train}/{validation}/{test} of the whole file, seed {data.split_seed}"


def _faults_of_splits(rows: Mapping[str, Sequence[SourceRow]], path: Path) -> Iterable[Finding]:
    for name in ("train", "test"):
        if name not in rows:
            present = ", ".join(rows) or "none"
            message = f"the split {name} is missing (splits in the file: {present})"
            hint = f"add rows for {name}, or give one list to split at random"
            yield dataset_error("DA104", path, message, hint)
    for name in rows:
        if not rows[name]:
            yield dataset_error("DA104", path, f"the split {name} is empty", "give it rows, or leave it out")


def separate_splits(
    files: FoundFiles, raw: Mapping[str, RawDataset], findings: list[Finding]
) -> tuple[dict[str, list[SourceRow]], str]:
    """Return the rows of each file, by `split_of` its key, and their origin in words."""
    rows: dict[str, list[SourceRow]] = {}
    taken: dict[tuple[Path, str], str] = {}
    parts: list[str] = []
    for key, file in files.by_key:
        role, splits = split_of(key).partition(".")[0], raw[key].splits
        part = WHOLE if WHOLE in splits else role
        if part not in splits:
            message = f"{key}: {file.path.name} has the splits {', '.join(splits)}, but not {role}"
            hint = f"name a file with a split {role}, or a file with one list of rows"
            findings.append(dataset_error("DA104", file.path, message if splits else f"{key} has no rows", hint))
        elif (first := taken.setdefault((file.path, part), key)) != key:
            message = f"{first} and {key} are the same rows of {file.path.name}"
            hint = f"use data: {{path: ...}} to split one file, or give another file as {key}"
            findings.append(dataset_error("DA104", file.path, message, hint))
        elif not splits[part]:
            hint = "give it rows" if role == "train" else "give it rows, or leave it out"
            findings.append(dataset_error("DA104", file.path, f"{key}: {file.path.name} has no rows", hint))
        else:
            rows[split_of(key)] = splits[part]
            parts += [] if part == WHOLE else [f"split {part} of {file.path.name}"]
    if not any(is_test(split_of(key)) for key, _ in files.by_key):
        message = f"{files.path.name} has no test rows, so its runs cannot be scored"
        hint = "add data: {test: FILE}, or turn evaluation off with evaluate: {epochs: []}"
        if "test" in raw[files.by_key[0][0]].splits:
            hint = f"use data: {{path: ...}} for all splits of {files.path.name}, or {hint}"
        where = Location(path=str(files.path))
        findings.append(
            Finding(
                code="DA104", severity=Severity.ERROR, subject=WITHOUT_TEST, message=message, where=where, hint=hint
            )
        )
    return rows, "; ".join([SEPARATE_FILES, *parts])


def overlaps(
    examples: Mapping[str, Sequence[Example]], paths: Mapping[str, Path], *, made_here: bool
) -> Iterable[Finding]:
    """Yield the rows of one split whose prompt is also in another. Test sets may share rows."""
    prompts = {name: dict.fromkeys(example.prompt for example in items) for name, items in examples.items()}
    tests = [name for name in examples if is_test(name)]
    pairs = [("train", "validation"), *((first, name) for first in ("train", "validation") for name in tests)]
    for first, second in pairs:
        shared = [prompt for prompt in prompts.get(second, {}) if prompt in prompts.get(first, {})]
        if not shared:
            continue
        shown = ", ".join(repr(shorten(prompt[-1].content if prompt else "", _QUOTED)) for prompt in shared[:_SHOWN])
        count = f"{len(shared):,} prompt{' is' if len(shared) == 1 else 's are'}"
        hint = f"remove them from {shown_split(second)}: a prompt seen in training does not test the model"
        if made_here:
            hint = "keep one row for each prompt that the file repeats"
        names = [
            shown_split(name) if paths[name] == paths[other] else f"{shown_split(name)} ({paths[name].name})"
            for name, other in ((first, second), (second, first))
        ]
        message = f"{count} both in {names[0]} and in {names[1]}, for example {shown}"
        yield dataset_error("DA106", paths[second], message, hint)


def equal_sets(sets: Sequence[SplitInfo], path: Path) -> Iterable[Finding]:
    """Yield test sets with the same rows under two names: their evaluations could not be distinguished."""
    known: dict[str, str] = {}
    for each in sets:
        if (first := known.setdefault(each.sha256, each.name)) != each.name:
            message = f"the test sets {first} and {each.name} have the same rows"
            yield dataset_error("DA104", path, message, "remove one of them, or name another file")


def dataset_error(code: str, path: Path, message: str, hint: str | None = None) -> Finding:
    """Return an error of a file."""
    where = Location(path=str(path))
    return Finding(code=code, severity=Severity.ERROR, subject=path.name, message=message, where=where, hint=hint)
