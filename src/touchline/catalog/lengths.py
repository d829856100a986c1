"""Exact token lengths of a split, by the model's own tokenizer and template, computed once and kept.

The key holds everything that a length depends on; a file that cannot be read is computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from touchline.catalog.datasets import load_dataset, load_examples
from touchline.catalog.models import load_renderer
from touchline.domain.catalog import ModelInfo
from touchline.domain.experiment import DataConfig
from touchline.errors import TouchlineError
from touchline.files import write_atomic

_VERSION = 1
_DATA = TypeAdapter(DataConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLengths:
    """Tokens of every example of a split, in the dataset's order."""

    prompt: NDArray[np.uint32]
    """Tokens of each prompt; shape [examples]."""
    answer: NDArray[np.uint32]
    """Tokens of each answer with its stop token; shape [examples]."""


def token_lengths(model: ModelInfo, data: DataConfig, split: str, base: Path, date: str, cache_dir: Path) -> TokenLengths:
    """Lengths of one split.

    Args:
        model: whose tokenizer and chat template.
        data: the dataset; its prompt filled in.
        split: `train`, `validation` or `test`.
        base: folder that the dataset's path is relative to.
        date: ISO date frozen in the plan.
        cache_dir: where they are kept.
    """
    info = load_dataset(data, base)
    rows = next((item.sha256 for item in info.splits if item.name == split), "")
    settings = {**json.loads(_DATA.dump_json(data)), "path": ""}
    # The date changes lengths only through templates that print it; it is in the key all the same, since it is cheap.
    identity = json.dumps([_VERSION, rows, model.tokenizer_sha256, settings, split, date], sort_keys=True)
    path = cache_dir / "lengths" / f"{hashlib.sha256(identity.encode()).hexdigest()}.npz"
    cached = _read(path, next((item.num_examples for item in info.splits if item.name == split), 0))
    if cached is not None:
        return cached
    renderer = load_renderer(model, date)
    rendered = [renderer.example(example) for example in load_examples(data, split, base)]
    lengths = TokenLengths(
        prompt=np.array([len(item.prompt_ids) for item in rendered], dtype=np.uint32),
        answer=np.array([len(item.answer_ids) for item in rendered], dtype=np.uint32),
    )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, prompt=lengths.prompt, answer=lengths.answer)
    try:
        write_atomic(path, buffer.getvalue())
    except TouchlineError:
        # A cache that cannot be written costs time, not the plan.
        return lengths
    return lengths


def _read(path: Path, count: int) -> TokenLengths | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            lengths = TokenLengths(prompt=file["prompt"].astype(np.uint32), answer=file["answer"].astype(np.uint32))
    except Exception:  # noqa: BLE001 (zipfile, zlib and numpy each raise their own; the file is only a cache)
        return None
    return lengths if len(lengths.prompt) == len(lengths.answer) == count else None
