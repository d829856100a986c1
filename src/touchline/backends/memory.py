"""Coefficients of a trainer's own code in the memory formula: `MEMORY` of a backend's `facts.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import Dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseLoss:
    """Logit storage of a trainer's releases, up to and including one."""

    before: tuple[int, ...]
    """The first release for which this no longer holds; empty: the newest."""
    typical: float
    """Bytes per token and vocabulary entry."""
    low: float
    """The fewest, by model."""
    high: float
    """The most, by model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryCoefficients:
    """Storage of logits, keys and values, and adapters by a trainer."""

    vocab_bytes: float
    """Bytes per token and vocabulary entry at the peak, logits and their gradient together."""
    vocab_bytes_low: float
    """The fewest that its settings and versions give."""
    vocab_bytes_high: float
    """The most."""
    logits_of: Literal["padded", "label"]
    """Tokens with logits: all, or those with a label."""
    expands_kv: bool
    """Whether keys and values are held as wide as the queries, whatever the batch."""
    adapter_dtype: Dtype
    """Element type of adapters unless a setting gives it."""
    master_weights: bool
    """Whether a float32 copy of trained bfloat16 weights is kept."""
    source: str
    """Source of the figures: measured, simulated, or read in a named file."""
    float32_adapters: Literal["promoted", "autocast", "autocast_shared"] = "autocast"
    """Handling of a float32 adapter on a 16-bit base. Promoted: without autocast, each adapted layer keeps its input in
    float32. Autocast: PEFT casts up and down again, so each layer keeps its own 16-bit copy. Shared: autocast alone
    casts, and layers with the same input share the copy.
    """
    nf4_upcasts: bool | None = False
    """Whether QLoRA turns norms, embeddings and head to float32 (`prepare_model_for_kbit_training`), and with them the
    stream of activations; none: that depends on the version, and counts in the interval's upper end only."""
    nf4_double_quant: bool = False
    """Whether the scales of a 4-bit base are themselves held in 8 bits."""
    nf4_input_bytes: float = 0.0
    """Bytes per element of the inputs that 4-bit layers keep for the backward pass; bitsandbytes' layers once did."""
    keeps_dequantised: bool = False
    """Whether the buffer in which 4-bit matrices are turned back to 16 bits stays."""
    fused_layers: bool = False
    """Whether kernels of its own compute norms and feed-forward parts, and so keep less for the backward pass."""
    rope_table: bool = False
    """Whether sines and cosines are held for every position of the context, in float32."""
    offloads_checkpoints: bool = False
    """Whether the inputs of checkpointed blocks wait in host memory."""
    activation_factor: float = 1.0
    """Ratio of the memory kept per block to the formula's value, measured where the code differs."""
    relative_error: float | None = None
    """Standard deviation of the logarithm of measured over computed activations, where this stack was measured; none:
    the formula's own."""
    masks_expand_kv: bool = False
    """Whether keys and values are held as wide as the queries where rows are padded: transformers leaves grouped heads
    to the kernel only where there is no mask."""
    fused_qkv: bool = False
    """Whether queries, keys and values come from one layer with one adapter, whose result is padded with zeros where
    not all three are adapted, and is held whole by the values where nothing is expanded."""
    eager_families: tuple[str, ...] = ()
    """Values of `model_type` whose attention it computes with whole scores, as scores that are capped need."""
    unties: bool = False
    """Whether the output layer is a copy of the embedding, also where the model ties them."""
    quantises_head: bool = False
    """Whether the output layer of a 4-bit base is in 4 bits too."""
    dropout: float = 0.0
    """Dropout of adapters unless a setting gives it."""
    whole_ends: bool = False
    """Whether embedding and output layer, where an adapter names them, are trained whole, in float32."""
    logits_at_once: int | None = None
    """Label tokens times vocabulary entries that have logits at once where the head is frozen; None: all of them."""
    releases: tuple[ReleaseLoss, ...] = ()
    """Loss computation in earlier releases, oldest first. `vocab_bytes` counts if the release is unknown."""
    own_release: str | None = None
    """Oldest release that touchline's own program of this trainer takes, where releases differ."""
    dynamic_extra: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Bytes per parameter that a 4-bit base stored by Unsloth takes more: typical, lowest, highest."""
    reserves: tuple[float, float, float] | None = None
    """Reserved over allocated memory, where this trainer differs from others: typical, lowest, highest."""
