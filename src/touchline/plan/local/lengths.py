"""Token lengths of a training split, with ends where its tokenizer is not here, and lengths given as an option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from touchline.backends.protocol import ExampleLengths
from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import ModelInfo
from touchline.core.files import read_bytes
from touchline.data.lengths import TokenLengths, token_lengths
from touchline.data.planned_models import find_other_tokenizer, other_lengths
from touchline.data.user_config import UserConfig
from touchline.estimate.spreads import NOT_TOLD, USUAL_COUNT, lengths_of_mean, outgrown_of, widths_of
from touchline.experiment.data_config import DataConfig


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
    """
    if lengths is None and mean is None:
        return NOT_TOLD
    if lengths is None:
        assert mean is not None
        lengths = lengths_of_mean(longest, mean, count or USUAL_COUNT * rows)
    return outgrown_of(rows * widths_of(np.minimum(lengths, longest), rows))


def training_lengths(
    model: ModelInfo,
    data: DataConfig,
    base: Path,
    date: str,
    settings: UserConfig,
    on_progress: ProgressCallback | None = None,
) -> ExampleLengths:
    """Return the token lengths of the training split, and of test sets that have files of their own.

    What is asked there may be longer than what is trained.

    Raises InputError: dataset, tokenizer or chat template cannot be used.
    """
    other = find_other_tokenizer(model.name, settings.models_dir) if "tokenizer" in model.absent else None
    cache = settings.cache_dir

    def counted(rows: DataConfig, split: str) -> ExampleLengths:
        if other is None:
            return _example_lengths(token_lengths(model, rows, split, base, date, cache, on_progress))
        found, ends = other_lengths(model.name, other, rows, split, base, date, cache, on_progress)
        low, high = (None, None) if ends is None else map(_example_lengths, ends)
        return _example_lengths(found, None if low is None or high is None else (low, high))

    found = counted(data, "train")
    # Each test file as the only one.
    tests = [counted(replace(data, test=file), "test") for file in data.test_sets.values()]
    asked, ends = _together(tests), found.ends
    if ends is not None and asked is not None:
        of_ends = zip(*(each.ends or (each, each) for each in tests), strict=True)
        low, high = (replace(end, of_tests=_together(each)) for end, each in zip(ends, of_ends, strict=True))
        ends = (low, high)
    return replace(found, of_tests=asked, ends=ends)


def _together(tests: Sequence[ExampleLengths]) -> ExampleLengths | None:
    if not sum(len(each.prompt) for each in tests):
        return None
    return ExampleLengths(
        prompt=np.concatenate([each.prompt for each in tests]),
        answer=np.concatenate([each.answer for each in tests]),
        prefix=min(each.prefix for each in tests),
    )


def _example_lengths(tokens: TokenLengths, ends: tuple[ExampleLengths, ExampleLengths] | None = None) -> ExampleLengths:
    return ExampleLengths(
        prompt=tokens.prompt,
        answer=tokens.answer,
        prefix=tokens.prefix,
        patches=tokens.patches,
        patch_squares=tokens.patch_squares,
        ends=ends,
    )
