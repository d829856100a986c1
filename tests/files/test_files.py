"""Files: old content or new, never half of it; and refusals in words."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize

from touchline.core import files
from touchline.core.errors import HostError, InputError
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import device_hours, format_seconds, measured, parse_duration

pytestmark = pytest.mark.planning


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_refused_writes_keep_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    """A full disk, a quota, a permission: the fault says what to do, the folder is as it was."""
    path = tmp_path / "file"
    files.write_atomic(path, "old")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    if call == "fsync":
        monkeypatch.setattr("os.fsync", refuse)
    else:
        monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(HostError) as caught:
        files.write_atomic(path, "new")
    monkeypatch.undo()
    assert caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_what_is_the_same_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.write_if_changed(path, "a") is True
    before = path.stat()
    assert files.write_if_changed(path, "a") is False
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")))
def test_a_torn_line_is_closed_before_the_next(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    """The new line stands by itself, whatever the kill left."""
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_text("whole\ntorn")
    files.append_line(path, line)
    assert path.read_text().split("\n") == ["whole", "torn", line, ""]


def test_reading_is_bounded_and_refuses_in_words(tmp_path: Path) -> None:
    (tmp_path / "big").write_text("x" * 11)
    (tmp_path / "latin").write_bytes(b"\xe4")
    for name in ("missing", ".", "big", "latin"):
        with pytest.raises(InputError):
            files.read_text_bounded(tmp_path / name, 10)


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    """And is free again when its descriptor is closed."""
    first = files.try_lock(tmp_path / "lock")
    assert first is not None
    assert files.try_lock(tmp_path / "lock") is None
    os.close(first)
    again = files.try_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_no_name_leads_out_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    for name in ("..", "../other", "link", "/etc"):
        with pytest.raises(InputError):
            files.inside(folder, name)
    assert files.inside(folder, "run") == folder / "run"


@parametrize("text, seconds", ("30min", 1800), ("6h", 21600), ("1h30m", 5400), ("90s", 90), ("2d", 172800))
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    with pytest.raises(InputError):
        parse_duration(text + " later")


def test_seconds_read_at_a_glance() -> None:
    assert [format_seconds(s) for s in (4.25, 281, 3723)] == ["4.2 s", "4:41", "1:02:03"]


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (Quantity(value=9.185, unit="MB"), "8.76 MiB"),
        (Quantity(value=9.185, unit="MB", low=9.0, high=10.0), "8.76 MiB (8.58 to 9.54)"),
        (Quantity(value=92.0, unit="MB", low=9.0, high=1e4), "87.7 MiB (8.58 MiB to 9.31 GiB)"),
        (Quantity(value=0.0446, unit="h", low=0.03, high=0.0759), "2.68 min (1.8 to 4.6)"),
        (Quantity(value=1.5, unit="h", low=1.5), "at least 1.5 h"),
        (Quantity(value=90.0, unit="min"), "1:30:00"),
        (Quantity(value=1.0, unit="points", low=0.3, high=3.0), "1 point (0.3 to 3)"),
        (Quantity(value=1.0, unit="tokens/s"), "1 tokens/s"),
        (Quantity(value=134515008.0, unit="1"), "134,515,008"),
        (Missing(missing="not measured"), "n/a (not measured)"),
    ],
)
def test_one_form_for_numbers_sizes_durations_and_intervals(quantity: Quantity | Missing, text: str) -> None:
    assert measured(quantity) == text


def test_compute_below_a_tenth_of_an_hour_is_in_minutes() -> None:
    short, long = (Quantity(value=value, unit="h", low=value / 2, high=2 * value) for value in (0.05, 0.5))
    assert device_hours(short, "device-hours (CPU)") == "3 device-minutes (CPU) (1.5 to 6)"
    assert device_hours(long, "GPU-hours") == "0.5 GPU-hours (0.25 to 1)"


def test_a_parsed_file_is_read_again_only_after_it_changed(tmp_path: Path) -> None:
    """Appended, replaced or removed: the next call reads again; unchanged: it does not. Old content goes first."""
    reads: list[str] = []

    def parse(path: Path) -> str:
        reads.append(path.name)
        return path.read_text()

    read = files.FileCache(parse, limit_bytes=10)
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("abcd")
    os.utime(one, ns=(10**18, 10**18))
    assert [read(one), read(one)] == ["abcd", "abcd"]
    assert reads == ["one"]
    with one.open("a") as stream:
        stream.write("e")
    os.utime(one, ns=(10**18 + 10**9, 10**18 + 10**9))
    assert [read(one), read(one), len(reads)] == ["abcde", "abcde", 2]
    two.write_text("1234567")
    os.utime(two, ns=(10**18, 10**18))
    assert [read(two), read(two), len(reads)] == ["1234567", "1234567", 3]
    assert [read(one), len(reads)] == ["abcde", 4], "both do not fit, so the older one went"
    one.unlink()
    with pytest.raises(FileNotFoundError):
        read(one)
    read.keep(two, "as written")
    assert [read(two), len(reads)] == ["as written", 5]
