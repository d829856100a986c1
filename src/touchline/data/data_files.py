"""Files of a dataset: where they are, which state they are in, and what to do about those that are missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeVar

from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.core.near import near_names
from touchline.data.readers import FORMATS
from touchline.data.words import count_words
from touchline.experiment.experiment import DataConfig

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
