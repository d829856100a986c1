"""Packing figures for plans and answers."""

from __future__ import annotations

from dataclasses import dataclass

PACKING_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingSide:
    """Packed or unpacked batching of one epoch."""

    packs: int
    """Rows: packs, or examples where nothing is packed."""
    lower_bound: int
    """Rows that no packer can do without."""
    density: float
    """Examples per sequence."""
    efficiency: float
    """Per cent of the computed tokens that are no padding."""
    steps_per_epoch: int
    """Optimizer steps, with the trainer's own rounding."""
    steps_per_epoch_low: int
    """The fewest, where the order cannot be known beforehand; else the same."""
    steps_per_epoch_high: int
    """The most, where the order cannot be known beforehand; else the same."""
    examples_per_step: float
    """Examples that one optimizer step learns from, on average."""
    largest_micro_batch_tokens: int
    """Padded tokens of the largest micro-batch: what decides on memory."""
    padded_tokens: int
    """Tokens computed in an epoch, padding included."""
    truncated: int
    """Examples that lose tokens."""
    answers_cut: int
    """Of these, examples that lose tokens with a loss."""
    dropped: int
    """Examples that are left out."""
    notes: tuple[str, ...] = ()
    """What this trainer does that one would not expect."""
    micro_batch_size: int | None = None
    """Rows per forward pass; None in a summary of an earlier version, which has one for both ways."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingSummary:
    """Both ways, and what to make of it."""

    schema_version: int = PACKING_SCHEMA_VERSION
    """Version of this form, which `touchline pack --json` prints."""
    backend: str
    """Whose batching it is; `touchline` for our own packer over the whole split."""
    max_seq_len: int
    """Most tokens per sequence."""
    micro_batch_size: int
    """Rows per forward pass without packing."""
    examples: int
    """Examples in the split."""
    packed: PackingSide
    """Several examples per sequence."""
    unpacked: PackingSide
    """One example per sequence."""
    advice: tuple[str, ...]
    """Sentences with their reasons."""
