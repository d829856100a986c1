"""Consistency of a model folder: config.json, weights, tokenizer and generation_config.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from touchline.core.errors import TouchlineError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.data.shards import Shard
from touchline.data.tokenizer import TokenizerFiles
from touchline.data.weights import model_fault

_LIMIT_BYTES = 1 << 20
_EMBEDDING = "model.embed_tokens.weight"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_AGAIN = "download config.json and weights of the same model again"


def disagreements(
    folder: Path, config: Mapping[str, object], shards: Sequence[Shard], tokenizer: TokenizerFiles, *, whole: bool
) -> Iterator[Finding]:
    """Return the contradictions between files of a model folder that break loading or training.

    Args:
        folder: the model's folder.
        config: its config.json.
        shards: the headers of its weights.
        tokenizer: its tokenizer's files.
        whole: whether all shards are there and readable.
    """
    place = folder / "config.json"
    if config and not config.get("model_type"):
        yield model_fault("TK230", folder, "config.json has no model_type, by which it is loaded", place, _AGAIN)
    if whole and "quantization_config" not in config and "text_config" not in config:
        yield from (model_fault("TK230", folder, each, place, _AGAIN) for each in _sizes(config, shards))
    yield from _stops(folder, tokenizer)


def _sizes(config: Mapping[str, object], shards: Sequence[Shard]) -> Iterator[str]:
    hidden, vocabulary, layers = (_count(config, key) for key in ("hidden_size", "vocab_size", "num_hidden_layers"))
    heads, groups = _count(config, "num_attention_heads"), _count(config, "num_key_value_heads")
    if hidden and heads and hidden % heads and not config.get("head_dim"):
        yield f"hidden_size {hidden} is not divisible by num_attention_heads {heads}"
    end = config.get("eos_token_id")
    for token in end if isinstance(end, list) else [end]:
        if vocabulary and isinstance(token, int) and token >= vocabulary:
            yield f"eos_token_id {token} is beyond the vocab_size of {vocabulary}"
    if heads and groups and heads % groups:
        yield f"num_attention_heads {heads} is not divisible by num_key_value_heads {groups}"
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


def _stops(folder: Path, tokenizer: TokenizerFiles) -> Iterator[Finding]:
    """Check that generation stops at the token that training teaches."""
    path = folder / "generation_config.json"
    try:
        generation = parse_json(read_text_bounded(path, _LIMIT_BYTES))
    except (TouchlineError, OSError, ValueError, RecursionError):
        return
    named = isinstance(generation, dict) and generation.get("eos_token_id") is not None
    end, stops = tokenizer.tokens.eos, tokenizer.tokens.stops
    if end is None and tokenizer.tokenizer_json is not None:
        yield Finding(
            code="TK231",
            severity=Severity.WARNING,
            subject=folder.name,
            message=f"model {folder.name}: the tokenizer names no eos_token, so most trainers end no answer with one",
            where=Location(path=str(folder / "tokenizer_config.json")),
            hint="set eos_token in tokenizer_config.json",
        )
        return
    # A chat model may have two ends, of a turn and of a text: where the template writes one that stops, all is well.
    template = tokenizer.chat_template or ""
    if not named or end is None or not stops or end in stops or any(stop in template for stop in stops):
        return
    message = f"generation ends at {' or '.join(map(repr, stops))}, and the tokenizer's eos_token is {end!r}"
    yield Finding(
        code="TK231",
        severity=Severity.WARNING,
        subject=folder.name,
        message=f"model {folder.name}: {message}",
        where=Location(path=str(path)),
        hint="name the id of eos_token in generation_config.json",
    )
