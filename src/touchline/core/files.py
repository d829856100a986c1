"""Files written so that a kill, a full disk or a second writer leaves either the old content or the new.

`write_atomic` writes next to the target, syncs and renames; no reader ever gets half a file. `append_line` writes a
whole line at once, and completes a last line that an earlier kill cut off. `try_lock` takes a kernel lock that ends
with its last holder, child processes included. A network file system without locks raises an `HostError`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Generic, TypeVar

from touchline.core.errors import FileLocksUnsupportedError, HostError, InputError, TouchlineError, quoted
from touchline.core.json_text import parse_json
from touchline.core.text import valid_utf8

_CHUNK_BYTES = 1 << 20
_READ_LIMIT_BYTES = 4 << 30
_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


RECORD_LIMIT_BYTES = 16 << 20
"""Size of the files that `read_record` is for: markers, configs, what an attempt left."""
_RACY_NS = 20_000_000
"""A file that was read so soon after its last change may change again without another time stamp."""

Parsed = TypeVar("Parsed")


class UnreadableFileError(InputError, OSError):
    """Error for an existing file that is not read: not a regular file, or larger than its reader's limit.

    Also an OSError, so that a reader that skips files that cannot be opened skips this one.
    """

    def __init__(self, path: Path, reason: str, expected: str) -> None:
        super().__init__(f"{str(path)!r} is {reason}", expected=expected)
        self.filename, self.strerror = str(path), f"it is {reason}"


def _refuse_irregular(path: Path, found: os.stat_result) -> None:
    """Raise unless a file's content is kept on a disk: nothing else has an end, and a pipe's may never come."""
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((name for matches, name in _KINDS if matches(found.st_mode)), "special file")
    raise UnreadableFileError(path, f"a {kind}", "a regular file")


def open_regular(path: Path) -> BufferedReader:
    """Return a file opened for reading bytes; every file that a user or another program wrote is opened here.

    What is not a regular file (a named pipe, a socket, a device) is not opened at all, so that no command waits for it.

    Raises:
        UnreadableFileError: it is not a regular file.
        OSError: it cannot be opened.
    """
    _refuse_irregular(path, os.stat(path))  # noqa: PTH116 (the descriptor below is looked at in the same way)
    # Whoever replaces the file by a pipe in this moment is not waited for either.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_irregular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, limit_bytes: int = _READ_LIMIT_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `limit_bytes`.

    Raises:
        UnreadableFileError: it is not a regular file, or larger.
        OSError: it cannot be opened.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size <= limit_bytes:
            data = _read_up_to(stream, limit_bytes + 1)
            if len(data) <= limit_bytes:
                return data
    raise UnreadableFileError(path, f"larger than {limit_bytes:,} bytes", "a smaller file")


def read_head(path: Path, limit_bytes: int) -> bytes:
    """Return the first bytes of a regular file.

    Raises:
        UnreadableFileError: it is not a regular file.
        OSError: it cannot be opened.
    """
    with open_regular(path) as stream:
        return _read_up_to(stream, limit_bytes)


def _read_up_to(stream: BufferedReader, limit_bytes: int) -> bytes:
    """Return the next bytes, read piece by piece: one read would ask for memory for the whole limit at once."""
    pieces: list[bytes] = []
    while limit_bytes > 0 and (piece := stream.read(min(limit_bytes, _CHUNK_BYTES))):
        pieces.append(piece)
        limit_bytes -= len(piece)
    return b"".join(pieces)


class FileCache(Generic[Parsed]):
    """Parsed files of one format: a file is parsed again only after it changed.

    A change is seen by inode, size and time stamps, so that a file that is appended to or replaced is read again. What
    was used least recently goes first where the files exceed the limit.
    """

    def __init__(self, parse: Callable[[Path], Parsed], limit_bytes: int) -> None:
        """Take the parser, and how many bytes of files are kept in parsed form."""
        self._parse = parse
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[str, tuple[tuple[int, ...], Parsed]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> Parsed:
        """Return the parsed content of a file; raises what the parser raises."""
        key, before = os.path.abspath(path), _stamp(path)  # noqa: PTH100 (a link in the path is no other file)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == before:
                self._kept.move_to_end(key)
                return kept[1]
        value = self._parse(path)
        if before and _stamp(path) == before and time.time_ns() - before[3] > _RACY_NS:
            self._keep(key, before, value)
        return value

    def keep(self, path: Path, value: Parsed) -> None:
        """Take the parsed content of a file that was just read or written."""
        self._keep(os.path.abspath(path), _stamp(path), value)  # noqa: PTH100

    def _keep(self, key: str, stamp: tuple[int, ...], value: Parsed) -> None:
        with self._lock:
            if (old := self._kept.pop(key, None)) is not None:
                self._bytes -= old[0][2]
            if not stamp:
                return
            self._kept[key] = (stamp, value)
            self._bytes += stamp[2]
            while self._bytes > self._limit_bytes:
                _, (dropped, _) = self._kept.popitem(last=False)
                self._bytes -= dropped[2]


def _read_record(path: Path) -> bytes:
    with open_regular(path) as stream:
        return _read_up_to(stream, RECORD_LIMIT_BYTES + 1)


read_record = FileCache(_read_record, 64 << 20)
"""Return the bytes of a small file, at most `RECORD_LIMIT_BYTES` and one more; raises what `open_regular` raises."""


def _stamp(path: Path) -> tuple[int, ...]:
    """Return device, inode, size and the times of the last changes; empty if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def open_append(path: Path) -> int:
    """Return the descriptor of a regular file, made where there is none, whose writes go to its end.

    Raises:
        UnreadableFileError: something else is there.
        OSError: it cannot be opened.
    """
    with contextlib.suppress(FileNotFoundError):
        _refuse_irregular(path, os.stat(path))  # noqa: PTH116 (as above)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)


@contextlib.contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError(
                f"no space left while writing {what} {str(path)!r}",
                expected="free space on that disk and within your quota",
                hint=f"df -h {str(path.parent)!r}",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HostError(
                f"no permission to write {what} {str(path)!r}",
                expected="a writable folder",
                hint=f"ls -ld {quoted(str(path.parent))}",
            ) from error
        raise


def _temporary_prefix(name: str) -> str:
    return f".{name[:40]}."


def remove_temporaries(folder: Path, names: Iterable[str]) -> None:
    """Delete what killed writers of some files of a folder left next to them.

    Call it under the lock of those files' writers.
    """
    prefixes = tuple(map(_temporary_prefix, names))
    for path in folder.glob(".*.tmp"):
        if path.name.startswith(prefixes):
            path.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one step; the old content stays until the new one is on disk."""
    data = valid_utf8(content).encode() if isinstance(content, str) else content
    temporary = path.parent / f"{_temporary_prefix(path.name)}{secrets.token_hex(4)}.tmp"
    with disk_errors("file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_if_changed(path: Path, content: str) -> bool:
    """Write `content` unless it is there already, and say whether anything was written."""
    try:
        if read_bytes(path) == valid_utf8(content).encode():
            return False
    except (FileNotFoundError, UnreadableFileError):
        pass
    write_atomic(path, content)
    return True


def append_line(path: Path, line: str) -> None:
    """Append one line durably; a last line that was cut off by a kill is closed first, so that it harms no other."""
    with disk_errors("file", path), os.fdopen(open_append(path), "ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        torn = False
        if size:
            stream.seek(size - 1)
            torn = stream.read(1) != b"\n"
        stream.write(valid_utf8(("\n" if torn else "") + line.rstrip("\n") + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_text_bounded(path: Path, limit_bytes: int) -> str:
    """Return the text of a file of at most `limit_bytes`.

    Raises:
        InputError: it is missing, no regular file, too large, or not UTF-8.
    """
    try:
        data = read_bytes(path, limit_bytes)
    except FileNotFoundError:
        raise InputError(f"{str(path)!r} does not exist", expected="a file") from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder", expected="a file") from None
    except PermissionError:
        raise HostError(f"no permission to read {str(path)!r}", hint=f"ls -l {quoted(str(path))}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(path)!r} is not UTF-8 text (byte {error.start})",
            expected="a text file in UTF-8",
            hint=f"file {quoted(str(path))}",
        ) from None


def read_json_object(path: Path, limit_bytes: int) -> dict[str, Any] | None:
    """Return the object in a JSON file of at most `limit_bytes`; None if there is none that can be read."""
    try:
        found = parse_json(read_text_bounded(path, limit_bytes))
    except (TouchlineError, OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def try_lock(path: Path) -> int | None:
    """Take the kernel lock on `path`; give its descriptor, or None while another process holds it.

    The lock lives as long as any process holds the descriptor: pass it to a child, and the child keeps it when the
    parent is killed. Close it to let go.

    Raises:
        FileLocksUnsupportedError: the file system supports none.
    """
    with disk_errors("lock", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise FileLocksUnsupportedError(
            f"the file system of {str(path)!r} does not support file locks ({error.strerror})",
            expected="a folder on a local disk, or on a network file system with locks",
        ) from error
    return descriptor


def is_other_folder(recorded: str, here: Path) -> bool:
    """Return True if `recorded` names a folder on this machine that is not `here`.

    A recorded path that does not exist says nothing: the folder was moved, or another node calls it by another path.
    """
    if recorded in ("", str(here)):
        return False
    try:
        return Path(recorded).is_dir() and not Path(recorded).samefile(here)
    except (OSError, ValueError):
        return False


def inside(folder: Path, name: str) -> Path:
    """Return `folder/name`; raise if it leads out of the folder by dots or links.

    Raises:
        InputError: it leads out.
    """
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{name!r} leads out of {str(folder)!r}", expected="a path inside that folder")
    return target
