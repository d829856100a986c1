"""Tables of tests, and loops in tests that never pass on nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")


def some(cases: Iterable[T]) -> list[T]:
    """Return the cases of a loop, of which there must be at least one."""
    found = list(cases)
    assert found, "there is no case to look at"
    return found


def parametrize(names: str, *rows: object, ids: Sequence[str] | None = None) -> pytest.MarkDecorator:
    """Run a test once for each row of a table: values of the names, in their order."""
    return pytest.mark.parametrize(names, rows, ids=ids)
