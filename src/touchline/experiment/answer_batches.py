"""Sizes of the batches in which an evaluation generates answers, for the plan and for the evaluation itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BatchSize = int | Literal["auto"]
"""Values of `evaluate.batch_size`."""

MERGE_FROM_ITEMS = 100
"""Number of answers from which merging an adapter into the weights pays; measurements: `touchline.evaluate.weights`."""
_FEW_ANSWERS = 32
"""Number of answers up to which sharing batches pays; measurements: `touchline.evaluate.weights`."""
SHARING_EVALUATIONS = 5
"""Maximum number of evaluations of one base whose answers share batches."""
_CPU_ROWS, _GPU_ROWS = 128, 512
"""Prompts per batch with `auto`: more gain little and wait for the longest answer among more."""
_CPU_TOKENS = 65_536
_MEMORY_SHARE = 0.5
"""Share of the free memory for a batch; the rest is for logits and for what the allocator loses."""
_COPY_SHARE = 0.25
"""Share of the free memory up to which the weights under a merged adapter are copied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """Limits of a batch on one device."""

    auto_rows: int
    tokens: int
    """Maximum number of tokens: prompts x (tokens of the longest prompt + longest answer)."""

    def rows(self, batch_size: BatchSize, tokens_per_row: int) -> int:
        """Return the maximum number of prompts, at least one.

        Args:
            batch_size: `evaluate.batch_size`.
            tokens_per_row: tokens of the longest prompt and of the longest answer.
        """
        most = self.auto_rows if batch_size == "auto" else batch_size
        return max(1, min(most, self.tokens // max(1, tokens_per_row)))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBytes:
    """Bytes of one token in a batch, on one device."""

    cache: float
    """Keys and values, from the prompt to the end of the answer."""
    passing: float
    """Activations of the widest moment of the pass that reads the prompts."""

    @property
    def total(self) -> float:
        """Bytes while the prompts are read."""
        return self.cache + self.passing


def token_bytes(
    *, layers: float, kv_size: int, q_size: int, hidden_size: int, intermediate_size: int, element: int
) -> TokenBytes:
    """Return the bytes of one token.

    Args:
        kv_size: width of all keys of a layer.
        q_size: width of all queries of a layer.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward part.
        element: bytes of a number.
    """
    # The stream and its copy, and the float32 copy and product of a norm.
    stream = 2 * hidden_size * element + 8 * hidden_size
    # Where there is a mask, grouped keys and values are expanded to the width of the queries.
    attention = (4 * q_size + 2 * kv_size) * element
    feed_forward = 4 * intermediate_size * element
    return TokenBytes(cache=2.0 * layers * kv_size * element, passing=float(stream + max(attention, feed_forward)))


def merges(answers: int, free_bytes: float | None, copy_bytes: float) -> bool:
    """Return True if an adapter is merged for its answers: they are many, and the copy leaves room for batches.

    Args:
        free_bytes: free memory of the GPU next to the weights; None for a CPU.
        copy_bytes: bytes of the weights under the adapter.
    """
    return answers >= MERGE_FROM_ITEMS and (free_bytes is None or copy_bytes <= _COPY_SHARE * free_bytes)


def shares_batches(answers: int, batch_size: BatchSize, dtype: str) -> bool:
    """Return True if the answers of an evaluation share batches with those of other adapters of the base.

    They do where they are few and fill at most half a batch, and only in float32: in bfloat16 an answer depends on the
    size of its batch, so it would depend on which runs are evaluated together.
    """
    half = (_CPU_ROWS if batch_size == "auto" else batch_size) // 2
    return dtype == "float32" and answers <= min(half, _FEW_ANSWERS)


def batch_limits(free_bytes: float | None, bytes_per_token: float) -> BatchLimits:
    """Return the limits on a device.

    Args:
        free_bytes: free memory of the GPU next to the weights; None for a CPU.
        bytes_per_token: bytes of one token while prompts are read (`token_bytes`).
    """
    if free_bytes is None:
        return BatchLimits(auto_rows=_CPU_ROWS, tokens=_CPU_TOKENS)
    fitting = max(1, int(_MEMORY_SHARE * free_bytes / bytes_per_token))
    # A power of two, so that small differences of the free memory do not change the batches.
    return BatchLimits(auto_rows=_GPU_ROWS, tokens=1 << (fitting.bit_length() - 1))
