"""Lengths of examples as options of `touchline estimate` give them: a file, numbers, or their mean alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from touchline.core.files import read_bytes
from touchline.estimate.outgrown import NOT_TOLD, USUAL_COUNT, lengths_of_mean, outgrown_of, widths_of


def read_lengths(text: str) -> NDArray[np.int64] | str:
    """Return the lengths in a file or in the text itself, shape [examples]; or what is wrong with them.

    Args:
        text: a file of numbers apart by spaces, commas or line ends, or such numbers.
    """
    if not text.isdecimal():
        try:
            text = read_bytes(Path(text).expanduser()).decode("utf-8")
        except (OSError, UnicodeDecodeError, RuntimeError, ValueError):
            if "," not in text:
                return "it is not a text file"
    words = text.replace(",", " ").split()
    wrong = next((word for word in words if not word.isdecimal() or not 1 <= int(word) < 1 << 31), None)
    if wrong is not None:
        return f"{wrong[:20]!r} is not a number of tokens"
    return np.array([int(word) for word in words]) if words else "it has no number"


def outgrown_by(
    lengths: NDArray[np.int64] | None, *, longest: int, mean: float | None, count: int | None, rows: int
) -> tuple[float, float]:
    """Return what `outgrown_of` does, by the lengths, by their mean, or by neither.

    Args:
        lengths: tokens of the examples, shape [examples]; None if they are not given.
        longest: tokens of the longest.
        mean: mean tokens of an example, where it is given.
        count: examples of an epoch, where they are given.
        rows: examples of a micro-batch.
    """
    if lengths is None and mean is None:
        return NOT_TOLD
    if lengths is None:
        assert mean is not None
        lengths = lengths_of_mean(longest, mean, count or USUAL_COUNT * rows)
    return outgrown_of(rows * widths_of(np.minimum(lengths, longest), rows))
