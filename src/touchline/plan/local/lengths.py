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
from touchline.data.other_tokenizer import other_lengths
from touchline.data.user_config import UserConfig
from touchline.spec.experiment import DataConfig

_TRAIN = "train"
_TEST = "test"


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
        settings: the folders of models and caches.
        on_progress: receives the number of tokenized rows and their total.

    Raises:
        InputError: dataset, tokenizer or chat template cannot be used.
    """
    cache = settings.cache_dir
    if "tokenizer" not in model.absent:
        found = _example_lengths(token_lengths(model, data, _TRAIN, base, date, cache, on_progress))
        tests = [
            _example_lengths(token_lengths(model, each, _TEST, base, date, cache, on_progress))
            for each in _test_files(data)
        ]
        return replace(found, of_tests=_together(tests))
    found, *tests = (
        _by_another(model.name, each, split, base, date, settings, on_progress)
        for each, split in ((data, _TRAIN), *((each, _TEST) for each in _test_files(data)))
    )
    asked = _together(tests)
    if found.ends is None or asked is None:
        return replace(found, of_tests=asked)
    ends = zip(found.ends, zip(*(each.ends or (each, each) for each in tests), strict=True), strict=True)
    low, high = (replace(end, of_tests=_together(of_tests)) for end, of_tests in ends)
    return replace(found, of_tests=asked, ends=(low, high))


def _test_files(data: DataConfig) -> list[DataConfig]:
    """Return the dataset with each of its test files as the only one."""
    return [replace(data, test=file) for file in data.test_sets.values()]


def _by_another(
    name: str,
    data: DataConfig,
    split: str,
    base: Path,
    date: str,
    settings: UserConfig,
    on_progress: ProgressCallback | None,
) -> ExampleLengths:
    """Return lengths with ends, of a model whose tokenizer is not here."""
    found, ends = other_lengths(name, data, split, base, date, settings.cache_dir, settings.models_dir, on_progress)
    if ends is None:
        return _example_lengths(found)
    low, high = map(_example_lengths, ends)
    return _example_lengths(found, (low, high))


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
