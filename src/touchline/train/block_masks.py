"""Document masks of packed rows for FlexAttention: a rule for each pair of tokens, and the blocks that it may allow.

A dense mask takes memory and time that grow with the row's width squared, and keeps attention from its fastest kernels.
A block mask names the blocks of 128 x 128 tokens in which any pair may be allowed; the kernel skips the others, and
asks the rule within these. Which blocks are named is counted from the first and last segment and position of each, so
nothing of the row's width squared is made.

`flex_attention` replaces that of transformers: block masks go to its FlexAttention, all others to torch's fused
kernel. Nothing here has run on a GPU yet; a training uses it only after a test against dense masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from touchline.backends.peft.layout import PADDING, SHARED
from touchline.train.machine import send

FLEX = "flex_attention"
"""Attention implementation that takes block masks and dense ones."""
BLOCK = 128
"""Tokens along a side of a block: FlexAttention's own default."""


def block_mask(
    segments: NDArray[np.int64], positions: NDArray[np.int64], window: int | None, device: torch.device
) -> BlockMask:
    """Return the mask of packed rows; shape [R, 1, W, W].

    Args:
        segments: -1 padding, 0 shared prefix, 1, 2, ... the examples of a row, in order; shape [R, W].
        positions: position of each token in its own example; shape [R, W].
        window: tokens back that a token attends to, itself included; None for all.
    """
    some, whole = blocks(segments, positions, window)
    width = segments.shape[1]
    partial = _ordered(some & ~whole, device)
    full = _ordered(whole, device)
    rule = _rule(send(torch.from_numpy(segments), device), send(torch.from_numpy(positions), device), window)
    return BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(width, width))


def blocks(
    segments: NDArray[np.int64], positions: NDArray[np.int64], window: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which blocks may have an allowed pair, and in which all pairs are allowed; each [R, blocks, blocks].

    The first holds every block that has one, and may hold others; the second holds no other.
    """
    rows, width = segments.shape
    missing = -width % BLOCK
    shape = (rows, (width + missing) // BLOCK, BLOCK)
    segments = np.pad(segments, ((0, 0), (0, missing)), constant_values=PADDING).reshape(shape)
    positions = np.pad(positions, ((0, 0), (0, missing))).reshape(shape)
    real = segments != PADDING
    most = np.iinfo(np.int64).max
    last, first = segments.max(2), np.where(real, segments, most).min(2)
    furthest, nearest = np.where(real, positions, -1).max(2), np.where(real, positions, most).min(2)
    filled, started = real.all(2), real.any(2)

    def pairs(queries: NDArray[Any], keys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return queries[:, :, None], keys[:, None, :]

    (query_first, key_first), (query_last, key_last) = pairs(first, first), pairs(last, last)
    same = (query_first <= key_last) & (key_first <= query_last)
    number = np.arange(shape[1])
    before = number[:, None] > number[None, :]
    started_query, started_key = pairs(started, started)
    some = before & started_query & started_key & (same | (key_first == SHARED))
    one = (query_first == query_last) & (key_first == key_last) & (query_first == key_first)
    filled_query, filled_key = pairs(filled, filled)
    whole = before & filled_query & filled_key & (one | (key_last == SHARED))
    if window is not None:
        # Positions of padding would overflow, and no block of it alone is left here.
        query_nearest, key_furthest = pairs(np.where(started, nearest, 0), furthest)
        query_furthest, key_nearest = pairs(furthest, np.where(started, nearest, 0))
        some &= query_nearest - key_furthest < window
        whole &= query_furthest - key_nearest < window
    # A token sees itself, padding too: one that sees nothing has no softmax.
    return some | np.eye(shape[1], dtype=np.bool_), whole


def _rule(segments: Tensor, positions: Tensor, window: int | None) -> Callable[..., Tensor]:
    """Return whether a token attends to another: `layout.visible` and `layout.within`, and each to itself."""

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, other = segments[row, query], segments[row, key]
        seen = (own == other) | ((other == SHARED) & (own > SHARED))
        seen = seen & (key <= query) & (other != PADDING)
        if window is not None:
            seen = seen & (positions[row, query] - positions[row, key] < window)
        return seen | (query == key)

    return allowed


def _ordered(chosen: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the number of chosen blocks of each row of blocks, and their columns, chosen ones first."""
    counts = chosen.sum(2, dtype=np.int32)[:, None]
    columns = np.argsort(~chosen, axis=2, kind="stable").astype(np.int32)[:, None]
    return send(torch.from_numpy(counts), device), send(torch.from_numpy(columns), device)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **settings: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention: by FlexAttention under a block mask, else by torch's fused kernel."""
    forward = flex_attention_forward if isinstance(attention_mask, BlockMask) else sdpa_attention_forward
    found: tuple[Tensor, Tensor | None] = forward(module, query, key, value, attention_mask, **settings)
    return found


AttentionInterface.register(FLEX, _attend)
AttentionMaskInterface.register(FLEX, sdpa_mask)
