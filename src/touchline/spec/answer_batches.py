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
"""Share of the free memory for keys and values; the rest is for activations and logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """Limits of a batch on one device."""

    auto_rows: int
    """Maximum number of prompts with `auto`."""
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
        free_bytes: free memory of the GPU beside the weights; None for a CPU.
        bytes_per_token: bytes of the keys and values of one token.
    """
    if free_bytes is None:
        return BatchLimits(auto_rows=_CPU_ROWS, tokens=_CPU_TOKENS)
    fitting = max(1, int(_MEMORY_SHARE * free_bytes / bytes_per_token))
    # A power of two, so that small differences of the free memory do not change the batches.
    return BatchLimits(auto_rows=_GPU_ROWS, tokens=1 << (fitting.bit_length() - 1))
