"""Token lengths from a file: a .npy array, or one integer a line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from touchline.core.errors import HostError, InputError
from touchline.core.files import read_bytes
from touchline.core.finding import Finding, Severity, Where

_LIMIT_BYTES = 4 << 30
_SHOWN = 10
_LONGEST = int(np.iinfo(np.uint32).max)
_EXPECTED = "a .npy array of integers, or a text file with one integer a line"


def read_lengths(path: Path) -> NDArray[np.uint32]:
    """Tokens of each example, in the file's order; shape [examples], each at least 1.

    Raises:
        InputError: there is no such file, it holds no lengths, or some are not positive integers; the first ten of them
            are named.
        HostError: it may not be read.
    """
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise InputError(f"{str(path)!r} is larger than 4 GiB", expected=_EXPECTED)
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise InputError(f"{str(path)!r} does not exist", expected=_EXPECTED) from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder", expected=_EXPECTED) from None
    except OSError as error:
        raise HostError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    lengths = _array(content, path) if content.startswith(b"\x93NUMPY") else _lines(content, path)
    if not len(lengths):
        raise InputError(f"{str(path)!r} holds no lengths", expected=_EXPECTED)
    return lengths


def _array(content: bytes, path: Path) -> NDArray[np.uint32]:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, MemoryError, SyntaxError) as error:
        raise InputError(f"{str(path)!r} is a broken .npy file: {error}", expected=_EXPECTED) from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{str(path)!r} holds an array of shape {array.shape} and type {array.dtype}",
            expected="one dimension, integers",
        )
    wrong = np.flatnonzero((array < 1) | (array > _LONGEST))
    _refuse(path, [(f"element {index}", str(array[index])) for index in wrong[:_SHOWN]], len(wrong))
    lengths: NDArray[np.uint32] = array.astype(np.uint32)
    return lengths


def _lines(content: bytes, path: Path) -> NDArray[np.uint32]:
    found: list[int] = []
    wrong: list[tuple[str, str]] = []
    for number, line in enumerate(content.splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        # Digits alone: int() would also take underscores, signs and the digits of other scripts.
        if text.isdigit() and 0 < (value := int(text[:20])) <= _LONGEST:
            found.append(value)
        else:
            wrong.append((f"line {number}", text[:40].decode("utf-8", "replace")))
    _refuse(path, wrong[:_SHOWN], len(wrong))
    return np.array(found, dtype=np.uint32)


def _refuse(path: Path, shown: list[tuple[str, str]], count: int) -> None:
    if not count:
        return
    findings = [
        Finding(
            code="PK010",
            severity=Severity.ERROR,
            subject=place,
            message=f"{place} is {text!r}, expected a positive integer",
            where=Where(path=str(path)),
        )
        for place, text in shown
    ]
    raise InputError(f"{str(path)!r}: {count:,} values are no lengths", expected=_EXPECTED, findings=findings)
