"""Cross-entropy of label positions with the logits of one chunk of them at a time.

A micro-batch with many label tokens has no larger tensors than its logits: 12 bytes per position and vocabulary entry
with log-probabilities and gradients. In chunks only those of one chunk exist. The gradient of the hidden states is
computed in the forward pass, chunk by chunk, because the loss of a position depends on its own hidden state alone; so
nothing is computed twice.

Logits are those of the model's own forward pass behind its body, so that soft caps, scales and multipliers apply.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

HIDDEN = "last_hidden_state"
"""Name of the hidden states in what a model's body returns."""


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
