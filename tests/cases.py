"""Small helpers of many tests: cases of a loop, programs on PATH."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def some(cases: Iterable[T]) -> list[T]:
    """Return the cases of a loop, of which there must be at least one."""
    found = list(cases)
    assert found, "there is no case to look at"
    return found


def python_program(path: Path, text: str) -> None:
    """Write an executable Python program. A shell starts the interpreter, whose path may hold a space."""
    path.write_text(f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n{text}")
    path.chmod(0o755)
