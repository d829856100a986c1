"""Token lengths of a training split on this machine: exact, or with ends where the model's tokenizer is not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from touchline.backends.protocol import ExampleLengths
from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import ModelInfo
from touchline.data.lengths import TokenLengths, token_lengths
from touchline.data.other_tokenizer import find_other_tokenizer, other_lengths
from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import DataConfig


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

    Args:
        model: whose tokenizer and chat template.
        data: the dataset; its prompt filled in.
        base: folder that the dataset's path is relative to.
        date: ISO date frozen in the plan.
        on_progress: receives the number of tokenized rows and their total.

    Raises:
        InputError: dataset, tokenizer or chat template cannot be used.
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
    """Return the lengths of the items of all test files. None if there are none."""
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
