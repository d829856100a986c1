"""What a trainer's own code adds to the memory formula: `MEMORY` of a backend's `memory.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.domain.estimate import Dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryCoefficients:
    """How a trainer holds logits, keys and values, and adapters."""

    vocab_bytes: float
    """Bytes per token and vocabulary entry at the peak, logits and their gradient together."""
    vocab_bytes_low: float
    """The fewest that its settings and versions give."""
    vocab_bytes_high: float
    """The most."""
    logits_of: Literal["padded", "label"]
    """Which tokens have logits: all, or those with a loss."""
    expands_kv: bool
    """Whether keys and values are held as wide as the queries."""
    adapter_dtype: Dtype
    """Element type of adapters where the settings do not say."""
    master_weights: bool
    """Whether a float32 copy of trained bfloat16 weights is kept."""
    source: str
    """Where the figures come from: measured, simulated, or read in which file."""
