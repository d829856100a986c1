"""Drawn answers that can be drawn again: every answer has a stream of random numbers of its own.

The stream depends on the seed, the item and the repeat, and on nothing else: not on what stands beside it in the batch,
and not on the model. So two models are asked with the same numbers, and a difference between them is less often luck of
the draw. One number is taken for each token, and the token found by it in the cumulated probabilities, the likeliest
first.
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
    """How tokens are drawn."""

    temperature: float
    """Logits are divided by it; above 0."""
    top_p: float = 1.0
    """Drawn from the likeliest tokens that together have this probability; above 0, at most 1."""


def stream_of(*parts: object) -> int:
    """The stream that belongs to some facts: seed, item, repeat, which call of it."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:STREAM_BYTES], "little")


class Drawing:
    """Draws the next tokens of a batch; to be made anew for each batch.

    Args:
        sampling: how.
        streams: the stream of each prompt, in order.
    """

    def __init__(self, sampling: Sampling, streams: Sequence[int]) -> None:
        self._sampling = sampling
        self._generators = [np.random.Generator(np.random.Philox(key=stream)) for stream in streams]

    def __call__(self, logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """(rows,) tokens.

        Args:
            logits: (rows, vocabulary) of the last position.
            places: which prompt each row is.
        """
        numbers = [self._generators[place].random() for place in places]
        probabilities, tokens = distribution(logits, self._sampling)
        reached = probabilities.cumsum(dim=-1)
        # Of what the cumulated sum reaches, so that rounding never leaves the last token out.
        wanted = torch.tensor(numbers, dtype=reached.dtype, device=reached.device)[:, None] * reached[:, -1:]
        index = torch.searchsorted(reached, wanted, right=True).clamp(max=reached.shape[-1] - 1)
        return tokens.gather(-1, index).squeeze(-1)


def distribution(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities, tokens), both (rows, vocabulary), the likeliest first; 0 for tokens that are not drawn from.

    The set is that of transformers' temperature and top-p: the smallest whose probabilities reach `top_p`.
    """
    scaled = logits.to(torch.float64) / sampling.temperature
    probabilities, tokens = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return probabilities, tokens
