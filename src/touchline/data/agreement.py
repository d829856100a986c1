"""Consistency of a model folder: config.json and weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from touchline.core.finding import Finding
from touchline.data.shards import Shard
from touchline.data.weights import model_fault

_EMBEDDING = "model.embed_tokens.weight"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_AGAIN = "download config.json and weights of the same model again"


def disagreements(
    folder: Path, config: Mapping[str, object], shards: Sequence[Shard], *, whole: bool
) -> Iterator[Finding]:
    """Return the contradictions between files of a model folder that break loading or training.

    Args:
        folder: the model's folder.
        config: its config.json.
        shards: the headers of its weights.
        whole: whether all shards are there and readable.
    """
    place = folder / "config.json"
    if config and not config.get("model_type"):
        yield model_fault("TK230", folder, "config.json has no model_type, by which it is loaded", place, _AGAIN)
    if whole and "quantization_config" not in config and "text_config" not in config:
        yield from (model_fault("TK230", folder, each, place, _AGAIN) for each in _sizes(config, shards))


def _sizes(config: Mapping[str, object], shards: Sequence[Shard]) -> Iterator[str]:
    hidden, vocabulary, layers = (_count(config, key) for key in ("hidden_size", "vocab_size", "num_hidden_layers"))
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    embedding = tensors.get(_EMBEDDING)
    if embedding is not None and hidden and vocabulary and embedding.elements != hidden * vocabulary:
        yield (
            f"the embedding in the weights has {embedding.elements:,} numbers, and config.json says vocab_size"
            f" {vocabulary} x hidden_size {hidden}"
        )
    numbers = [int(match.group(1)) for name in tensors if (match := _LAYER.match(name))]
    if numbers and layers and layers > max(numbers) + 1:
        yield f"config.json says num_hidden_layers {layers}, and the weights hold {max(numbers) + 1} layers"


def _count(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
