"""Token lengths of a training split on this machine: exact, or with ends where the model's tokenizer is not here."""

from __future__ import annotations

from pathlib import Path

from touchline.backends.protocol import ExampleLengths
from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import ModelInfo
from touchline.data.lengths import TokenLengths, token_lengths
from touchline.data.other_tokenizer import other_lengths
from touchline.data.user_config import UserConfig
from touchline.spec.experiment import DataConfig

_TRAIN = "train"


def training_lengths(
    model: ModelInfo,
    data: DataConfig,
    base: Path,
    date: str,
    settings: UserConfig,
    on_progress: ProgressCallback | None = None,
) -> ExampleLengths:
    """Return the token lengths of the training split.

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
        return _example_lengths(token_lengths(model, data, _TRAIN, base, date, cache, on_progress))
    found, ends = other_lengths(model.name, data, _TRAIN, base, date, cache, settings.models_dir, on_progress)
    low, high = (None, None) if ends is None else map(_example_lengths, ends)
    return _example_lengths(found, None if low is None or high is None else (low, high))


def _example_lengths(tokens: TokenLengths, ends: tuple[ExampleLengths, ExampleLengths] | None = None) -> ExampleLengths:
    return ExampleLengths(
        prompt=tokens.prompt,
        answer=tokens.answer,
        prefix=tokens.prefix,
        patches=tokens.patches,
        patch_squares=tokens.patch_squares,
        ends=ends,
    )
