"""Small helpers of many tests: tables, loops that never pass on nothing, programs on PATH."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from touchline.core.errors import InputError

T = TypeVar("T")
P = ParamSpec("P")


def some(cases: Iterable[T]) -> list[T]:
    """Return the cases of a loop, of which there must be at least one."""
    found = list(cases)
    assert found, "there is no case to look at"
    return found


def python_program(path: Path, text: str) -> None:
    """Write an executable Python program. A shell starts the interpreter, whose path may hold a space."""
    path.write_text(f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n{text}")
    path.chmod(0o755)


def parametrize(names: str, *rows: object, ids: Sequence[str] | None = None) -> pytest.MarkDecorator:
    """Run a test once for each row of a table: values of the names, in their order."""
    return pytest.mark.parametrize(names, rows, ids=ids)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_files(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        write(folder / name, text)
    return folder


def refusal(call: Callable[P, object], *arguments: P.args, **more: P.kwargs) -> InputError:
    """Call what must refuse what it is given; return the error."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **more)
    return caught.value


def until(true: Callable[[], object], seconds: float = 300.0) -> None:
    """Wait for something that must happen; its absence is the failure, not its lateness."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def call_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    """Call `touchline ...` in this process: exit code, stdout, stderr."""
    from touchline.cli.main import main

    monkeypatch.setattr(sys, "argv", ["touchline", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert isinstance(end.value.code, int)
    return end.value.code, told.out, told.err
