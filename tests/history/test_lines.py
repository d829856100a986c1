"""Lines in bounded memory, whatever the file holds; numbers are those of an editor."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.history.lines import KEPT_BYTES, LINE_LIMIT_BYTES, LineFile, NotTextError

pytestmark = pytest.mark.planning


def read(path: Path) -> tuple[LineFile, list[tuple[int, bytes]]]:
    file = LineFile(path=path)
    return file, [(number, line) for first, lines in file.chunks() for number, line in enumerate(lines, first)]


@given(text=st.binary(max_size=2000).map(lambda data: data.replace(b"\0", b"x")))
def test_numbers_are_those_of_an_editor(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.log"
    printable = bytes(byte if byte >= 32 or byte in (9, 10, 13) else 46 for byte in text)
    printable = b"log " + printable
    path.write_bytes(printable)
    file, lines = read(path)
    expected = printable.split(b"\n")
    assert file.unterminated == bool(expected[-1])
    if not expected[-1]:
        expected.pop()
    assert lines == list(enumerate(expected, 1))


def test_a_line_over_the_limit_keeps_head_and_tail_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"first\nHEAD" + b"x" * (5 * LINE_LIMIT_BYTES) + b"TAIL\nlast\n")
    file, lines = read(path)
    assert file.cut_lines == 1
    assert [number for number, _ in lines] == [1, 2, 3]
    assert lines[1][1].startswith(b"HEAD")
    assert lines[1][1].endswith(b"TAIL")
    assert len(lines[1][1]) < 3 * KEPT_BYTES
    assert lines[2] == (3, b"last")


def test_a_file_that_is_one_line_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("wb") as stream:
        for _ in range(64):
            stream.write(b"y" * (1 << 20))
    tracemalloc.start()
    file = LineFile(path=path)
    for _ in file.chunks():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.cut_lines == 1
    assert file.bytes_read == 64 << 20
    assert peak < 12 << 20


def test_bars_on_one_endless_line_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "a.err"
    bars = b"\r".join(b" 50%%|#####     | %7d/9999999 [00:01<00:01,  1.00it/s]" % number for number in range(60_000))
    path.write_bytes(b"start\n" + bars + b"\nend\n")
    file, lines = read(path)
    whole = b"\r".join(line for number, line in lines if number == 2)
    assert file.cut_lines == 0
    assert whole.count(b"it/s]") == 60_000
    assert lines[-1] == (3, b"end")


def test_gzip_is_read_and_a_cut_one_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"line %d of a log\n" % number for number in range(100_000)))
    path = tmp_path / "a.log.gz"
    path.write_bytes(whole)
    file, lines = read(path)
    assert len(lines) == 100_000
    assert file.notes == []
    path.write_bytes(whole[: len(whole) // 2])
    file, lines = read(path)
    assert 0 < len(lines) < 100_000
    assert "truncated" in file.notes[0]
    path.write_bytes(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 :])
    file, lines = read(path)
    assert 0 < len(lines) < 100_000
    assert "corrupt" in file.notes[0]


def test_binary_files_are_refused_and_zeros_of_a_crash_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"")
    assert read(path)[1] == []
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(NotTextError):
        read(path)
    path.write_bytes(b"epoch 1 done, and so on, a line as long as others\n" * 100 + b"\0" * 100)
    assert len(read(path)[1]) == 101
