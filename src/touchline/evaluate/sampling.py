"""Reproducible sampling: every answer has its own random stream.

The stream depends only on seed, item and repeat, not on the batch or the model. Models are therefore compared with
common random numbers, which reduces chance differences. Each token takes one number, looked up in the cumulative
probabilities, most likely token first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

STREAM_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Sampling settings."""

    temperature: float
    """Divisor of the logits; above 0."""
    top_p: float = 1.0
    """Cumulative probability of the candidate tokens; above 0, at most 1."""


def stream_of(*parts: object) -> int:
    """Return the stream of some facts: seed, item, repeat, call."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:STREAM_BYTES], "little")


class Drawing:
    """Sampler of the next tokens of a batch; create one per batch.

    Args:
        streams: stream of each prompt, in order.
    """

    def __init__(self, sampling: Sampling, streams: Sequence[int]) -> None:
        self._sampling = sampling
        self._generators = [np.random.Generator(np.random.Philox(key=stream)) for stream in streams]

    def __call__(self, logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Return (rows,) tokens.

        Args:
            logits: (rows, vocabulary) of the last position.
            places: prompt index of each row.
        """
        numbers = [self._generators[place].random() for place in places]
        probabilities, tokens = distribution(logits, self._sampling)
        reached = probabilities.cumsum(dim=-1)
        # Of what the cumulated sum reaches, so that rounding never leaves the last token out.
        wanted = torch.tensor(numbers, dtype=reached.dtype, device=reached.device)[:, None] * reached[:, -1:]
        index = torch.searchsorted(reached, wanted, right=True).clamp(max=reached.shape[-1] - 1)
        return tokens.gather(-1, index).squeeze(-1)


def distribution(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (probabilities, tokens), both (rows, vocabulary), most likely first; 0 for excluded tokens.

    The candidates are those of transformers' temperature and top-p: the smallest set that reaches `top_p`.
    """
    scaled = logits.to(torch.float64) / sampling.temperature
    probabilities, tokens = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return probabilities, tokens
