"""Adapters of several runs on one frozen base, applied side by side.

The rows of a micro-batch are in blocks of equal size, one for each active adapter. The base computes all rows at once;
each block gets the change of its own adapter, by batched matrix products over the stacked factors. Smaller ranks are
padded with zeros, which are no parameters. The gradients of the adapters are those of separate runs; only the
order of sums within a matrix product may differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from touchline.backends.peft.layout import SequenceBatch, stack
from touchline.core.errors import InputError
from touchline.train.model import base_of
from touchline.train.target_loss import MicroBatchGradient, TargetLoss


class SideBySide:
    """Adapters of a model, of which several are active at once.

    Args:
        target_loss: loss function of a base with LoRA adapters, without DoRA and dropout.
        names: adapters, each attached to the same layers.

    Raises:
        InputError: a layer with an adapter is not a linear layer of the model's body.
    """

    def __init__(self, target_loss: TargetLoss, names: Sequence[str]) -> None:
        self._target_loss = target_loss
        self._active = tuple(names)
        self._rows = 0
        self._scales: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        head = base_of(target_loss.model).get_output_embeddings()
        for path, layer in target_loss.model.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            if set(layer.lora_A) != set(names) or head in (layer, layer.get_base_layer()):
                raise InputError(
                    f"runs cannot be trained in a cohort: the layer {path} holds other adapters than theirs",
                    expected="adapters on the same linear layers of the model's body",
                )
            layer.forward = partial(self._forward, layer, path)

    def losses(self, name: str, rows: SequenceBatch) -> Tensor:
        """Return the loss of each label token with one adapter, as `TargetLoss` does."""
        with self._applying([name], rows):
            return self._target_loss(rows)

    def add_gradients(self, names: Sequence[str], requests: Sequence[MicroBatchGradient]) -> list[Tensor]:
        """Add the gradient of a micro-batch to each adapter, in one pass. Return each one's share of its loss.

        Args:
            requests: micro-batch of each.
        """
        rows = stack([request.rows for request in requests])
        with self._applying(names, rows):
            parts = self._target_loss(rows).split([len(request.rows.labels) for request in requests])
            losses = [part.sum() / request.targets for part, request in zip(parts, requests, strict=True)]
            # Each loss depends on its own adapter alone, so the sum's gradients are those of each.
            torch.stack(losses).sum().backward()
        return [loss.detach() for loss in losses]

    @contextlib.contextmanager
    def _applying(self, names: Sequence[str], rows: SequenceBatch) -> Iterator[None]:
        """Apply adapters to the blocks of a micro-batch's rows for the length of a block."""
        self._active, self._rows = tuple(names), rows.token_ids.shape[0]
        yield

    def _forward(self, layer: LoraLayer, path: str, x: Tensor) -> Tensor:
        """Return the output of a layer for rows of shape [K R, W, inputs]."""
        if x.ndim != 3 or x.shape[0] != self._rows:
            raise InputError(
                f"runs cannot be trained in a cohort: the layer {path} gets an input of shape {list(x.shape)}",
                expected=f"all {self._rows} rows of the micro-batch",
            )
        result: Tensor = layer.base_layer(x)
        blocks = x.reshape(len(self._active), -1, x.shape[-1])
        rank = max(layer.r[name] for name in self._active)
        a = torch.stack([_padded(layer.lora_A[name].weight, rank, 0) for name in self._active])
        b = torch.stack([_padded(layer.lora_B[name].weight, rank, 1) for name in self._active])
        if not torch.is_autocast_enabled(x.device.type):
            blocks = blocks.to(a.dtype)
        delta = torch.bmm(torch.bmm(blocks, a.transpose(1, 2)), b.transpose(1, 2)) * self._scale(layer, path, x.device)
        return result + delta.view_as(result).to(result.dtype)

    def _scale(self, layer: LoraLayer, path: str, device: torch.device) -> Tensor:
        """Return the scales of the active adapters, shape [K, 1, 1]; made once, because a GPU waits for such a copy."""
        key = path, self._active
        if key not in self._scales:
            values = [layer.scaling[name] for name in self._active]
            self._scales[key] = torch.tensor(values, device=device).view(-1, 1, 1)
        return self._scales[key]


def _padded(weight: Tensor, rank: int, dimension: int) -> Tensor:
    """Return a factor with zeros up to a rank along a dimension."""
    missing = rank - weight.shape[dimension]
    if missing == 0:
        return weight
    return nn.functional.pad(weight, (0, 0, 0, missing) if dimension == 0 else (0, missing))


class OwnLoss:
    """Loss function of one of several adapters of a model."""

    def __init__(self, shared: TargetLoss, side_by_side: SideBySide, name: str) -> None:
        self.model, self.machine, self.pixels = shared.model, shared.machine, shared.pixels
        self._side_by_side, self._name = side_by_side, name

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """Return the loss of each label token in nats, float32; shape [T]."""
        return self._side_by_side.losses(self._name, rows)
