"""Masks by blocks of tokens for FlexAttention, and losses by chunks of label positions: what wide rows need in memory.

A dense mask grows with the row's width squared; a block mask names the blocks of 128 x 128 tokens in which any pair may
be allowed. Logits take 12 bytes per position and vocabulary entry. In chunks, only those of one chunk exist, and the
gradient of the hidden states is made in the forward pass. Nothing here has run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.generic import ModelOutput

from touchline.backends.peft.layout import PADDING, SHARED
from touchline.train.machine import send

FLEX = "flex_attention"  # Attention implementation that takes block masks and dense ones
BLOCK = 128  # Tokens along a side of a block: FlexAttention's own default


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


HIDDEN = "last_hidden_state"  # Name of the hidden states in what a model's body returns


def head_is_frozen(base: PreTrainedModel) -> bool:
    """Return True if nothing behind the body is trained: no head, no adapter of it, no embedding tied to it."""
    body = base.base_model
    head = base.get_output_embeddings()
    if body is base or head is None:
        return False
    inside = {id(parameter) for parameter in body.parameters()}
    behind = [parameter for parameter in base.parameters() if id(parameter) not in inside]
    return not any(parameter.requires_grad for parameter in (*behind, *head.parameters()))


class ChunkedLoss:
    """Loss of each label token, with the logits of some label positions at a time.

    Args:
        base: the base below the adapter, whose head is frozen.
        size: positions of a chunk.
    """

    def __init__(self, model: nn.Module, base: PreTrainedModel, size: int) -> None:
        self.size = size
        self._model, self._base, self._body = model, base, base.base_model
        self._sources: Tensor | None = None
        self._kept: tuple[Tensor, ModelOutput] | None = None
        self._checked = False
        self._body.register_forward_hook(self._keep)

    def __call__(
        self, inputs: dict[str, Any], sources: Tensor, labels: Tensor, label_smoothing: float
    ) -> Tensor | None:
        """Return the loss of each label in nats, float32; shape [T]. None if the model cannot be taken apart.

        That is tested in the first call: the logits of a position must be those of a whole forward pass.

        Args:
            inputs: of the model, R rows of width W.
            sources: index, in the flattened rows, of the token that predicts each label; shape [T].
            labels: the labels; shape [T].
            label_smoothing: probability mass spread over all tokens.
        """
        self._sources = sources
        try:
            logits = self._model(**inputs, use_cache=False).logits
        finally:
            self._sources = None
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        hidden, output = kept
        logits_of = partial(self._logits, output)
        if not self._checked:
            with torch.no_grad():
                self._checked = torch.equal(logits_of(hidden[:1]), logits.reshape(1, -1))
            if not self._checked:
                return None
        del logits
        return chunked_cross_entropy(hidden, labels, logits_of, self.size, label_smoothing)

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        """Keep the hidden states of the label positions, [T, H]. Hand on the first of them, [1, 1, H]."""
        if self._sources is None or not isinstance(output, ModelOutput) or HIDDEN not in output:
            return None
        states = output[HIDDEN]
        hidden = states.reshape(-1, states.shape[-1]).index_select(0, self._sources)
        first = _with_hidden(output, hidden[:1])
        self._kept = hidden, first
        return first

    def _logits(self, output: ModelOutput, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states: [N, H] becomes [N, vocabulary]."""
        token_ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        with _returning(self._body, _with_hidden(output, hidden)):
            logits: Tensor = self._base(input_ids=token_ids, use_cache=False).logits
        return logits.reshape(len(hidden), -1)


class _Chunks(torch.autograd.Function):
    """Losses of positions from their hidden states, chunk by chunk; the gradient is made next to them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        labels: Tensor,
        logits_of: Callable[[Tensor], Tensor],
        size: int,
        label_smoothing: float,
    ) -> Tensor:
        """Return the losses, and keep the gradient of their sum if one is needed."""
        needed = bool(ctx.needs_input_grad[0])
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if needed else None
        for start in range(0, len(labels), size):
            place = slice(start, start + size)
            with torch.set_grad_enabled(needed):
                part = hidden[place].detach().requires_grad_(needed)
                found = nn.functional.cross_entropy(
                    logits_of(part).float(), labels[place], reduction="none", label_smoothing=label_smoothing
                )
                if gradient is not None:
                    (gradient[place],) = torch.autograd.grad(found.sum(), part)
            losses[place] = found.detach()
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the kept gradient, each position's times that of its loss."""
        (gradient,) = ctx.saved_tensors
        return (gradient * outer[0].unsqueeze(-1)).to(gradient.dtype), None, None, None, None


def chunked_cross_entropy(
    hidden: Tensor, labels: Tensor, logits_of: Callable[[Tensor], Tensor], size: int, label_smoothing: float = 0.0
) -> Tensor:
    """Return the loss of each label in nats, float32; shape [T].

    Args:
        hidden: hidden states that predict them; shape [T, H].
        labels: the labels; shape [T].
        logits_of: frozen function from hidden states to logits.
        size: positions of a chunk.
        label_smoothing: probability mass spread over all tokens.
    """
    losses: Tensor = _Chunks.apply(hidden, labels, logits_of, size, label_smoothing)  # type: ignore[no-untyped-call]
    return losses


def _with_hidden(output: ModelOutput, hidden: Tensor) -> ModelOutput:
    """Return a body's output with other hidden states, as one row: [N, H] becomes [1, N, H]."""
    other = copy.copy(output)
    other[HIDDEN] = hidden.unsqueeze(0)
    return other


@contextlib.contextmanager
def _returning(body: nn.Module, output: ModelOutput) -> Iterator[None]:
    """Let a body return an output without computing anything, for the length of a block."""
    before = body.__dict__.get("forward")
    body.forward = lambda *arguments, **named: output
    try:
        yield
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before
