"""Loops in tests never pass on nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def some(cases: Iterable[T]) -> list[T]:
    """Return the cases of a loop, of which there must be at least one."""
    found = list(cases)
    assert found, "there is no case to look at"
    return found
