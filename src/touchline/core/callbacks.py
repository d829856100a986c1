"""Callbacks that slow functions call: with counts, or with a sentence."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total)."""
NamedProgressCallback = Callable[[int, int, str], None]
"""Called with (done, total, name of the next item)."""
MessageCallback = Callable[[str], None]
"""Called with one sentence."""


def ignore_message(text: str) -> None:
    """Drop a message, for callers without a use for it."""
    del text
