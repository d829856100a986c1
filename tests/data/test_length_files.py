"""Lengths from files: what is there comes back, what is no length is named, and nothing breaks the reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from touchline.core.errors import InputError
from touchline.data.lengths import read_lengths

pytestmark = pytest.mark.planning

LENGTHS = st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=50)


@given(LENGTHS, st.sampled_from(["\n", "\r\n", "\n\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_come_back(tmp_path: Path, lengths: list[int], end: str) -> None:
    path = tmp_path / "lengths.txt"
    path.write_bytes(end.join(map(str, lengths)).encode())
    assert read_lengths(path).tolist() == lengths


@given(LENGTHS, st.sampled_from([np.uint32, np.int64, np.uint64]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_come_back(tmp_path: Path, lengths: list[int], dtype: type) -> None:
    path = tmp_path / "lengths.npy"
    np.save(path, np.array(lengths, dtype=dtype))
    assert read_lengths(path).tolist() == lengths


@pytest.mark.parametrize(
    "content", [b"3\n-4\n5\n", b"3\n4.5\n", b"3\nfour\n", b"0\n", b"1_000\n", b"9" * 30, b"", b"\n\n", b"\x00\xff\n3\n"]
)
def test_what_is_no_length_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lengths.txt"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_lengths(path)


def test_the_wrong_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("3\nx\n5\n-1\n")
    with pytest.raises(InputError) as caught:
        read_lengths(path)
    assert [finding.subject for finding in caught.value.findings] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    "array",
    [np.ones((2, 2), np.int64), np.array([1.5, 2.0]), np.array([3, 0]), np.array([3, -1]), np.array([], np.int64)],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:  # type: ignore[type-arg]
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError):
        read_lengths(tmp_path / "a.npy")


def test_pickles_and_cut_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError):
        read_lengths(path)
    np.save(path, np.arange(1, 100))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError):
        read_lengths(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path):
        with pytest.raises(InputError, match=path.name):
            read_lengths(path)
