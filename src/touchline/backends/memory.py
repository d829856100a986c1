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
    float32_adapters: Literal["promoted", "autocast", "autocast_shared"] = "autocast"
    """How a float32 adapter meets a 16-bit base. Promoted: without autocast, so that each adapted layer keeps its input
    in float32. Autocast: cast up by PEFT and down again, so that each keeps a 16-bit copy of its own. Shared: cast by
    autocast alone, layers with the same input share it."""
    nf4_upcasts: bool | None = False
    """Whether QLoRA turns norms, embeddings and head to float32 (`prepare_model_for_kbit_training`), and with them the
    stream of activations; none: that depends on the version, and counts in the interval's upper end only."""
    nf4_double_quant: bool = False
    """Whether the scales of a 4-bit base are themselves held in 8 bits."""
    nf4_input_bytes: float = 0.0
    """Bytes per element of the inputs that 4-bit layers keep for the backward pass; bitsandbytes' layers once did."""
    fused_layers: bool = False
    """Whether kernels of its own compute norms and feed-forward parts, and so keep less for the backward pass."""
    rope_table: bool = False
    """Whether sines and cosines are held for every position of the context, in float32."""
    offloads_checkpoints: bool = False
    """Whether the inputs of checkpointed blocks wait in host memory."""
    activation_factor: float = 1.0
    """What it keeps a block, over what the formula counts; from measurements, where the code differs from it."""
    relative_error: float | None = None
    """Standard deviation of the logarithm of measured over computed activations, where this stack was measured; none:
    the formula's own."""
