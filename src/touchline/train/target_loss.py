"""Loss of the label tokens of a model: of batches in training, and its mean over validation items."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import PretrainedConfig, masking_utils

from touchline.backends.peft.layout import PADDING, BatchLayout, SequenceBatch, arrange, label_chunk, visible, within
from touchline.core.catalog import RenderedExample
from touchline.core.quantity import Missing
from touchline.data.images import PixelBatch, load_pixels
from touchline.data.rendering.chat import NO_IMAGES, ImageRule
from touchline.train.attempt import LOG
from touchline.train.blockwise import FLEX, ChunkedLoss, block_mask, head_is_frozen
from touchline.train.machine import Machine, send
from touchline.train.model import base_of, trainable
from touchline.train.parallel import Processes

_AHEAD = 2  # Micro-batches that a thread reads ahead


class PixelReader:
    """Reader of the images of micro-batches. What it returns does not depend on what was read ahead."""

    def __init__(self, rule: ImageRule) -> None:
        self.rule = rule
        self.waited = 0.0
        """Seconds that micro-batches have waited for their images."""
        self._ahead: deque[tuple[tuple[str, ...], Future[PixelBatch]]] = deque()
        self._more: Iterator[tuple[tuple[str, ...], Future[PixelBatch]]] = iter(())

    def __call__(self, images: tuple[str, ...]) -> PixelBatch:
        """Return the pixels of a micro-batch's images."""
        begun = time.perf_counter()
        if not self._ahead or self._ahead[0][0] != images:
            pixels = load_pixels(images, self.rule)
        else:
            _, coming = self._ahead.popleft()
            self._ahead.extend(itertools.islice(self._more, 1))
            pixels = coming.result()
        self.waited += time.perf_counter() - begun
        return pixels

    @contextlib.contextmanager
    def ahead(self, coming: Iterable[tuple[str, ...]], workers: int) -> Iterator[None]:
        """Read the images of the coming micro-batches ahead, for the length of a block."""
        pool = ThreadPoolExecutor(workers, thread_name_prefix="pixels")
        self._more = ((images, pool.submit(load_pixels, images, self.rule)) for images in coming if images)
        self._ahead.extend(itertools.islice(self._more, _AHEAD * workers))
        try:
            yield
        finally:
            self._ahead.clear()
            self._more = iter(())
            pool.shutdown(cancel_futures=True)


IGNORED = -100  # Label of a token without a loss, as torch and transformers have it


class TargetLoss:
    """Loss of each label token, computed at label positions only.

    The model's own forward pass runs, with a hook before its head that keeps the positions predicting a label: the head
    is the widest layer, and most positions predict no label. Logit transformations of the model still apply. More label
    tokens than a chunk holds have their logits chunk by chunk, if the head is frozen.

    Args:
        model: base with its adapter, or trained as a whole.
        machine: device and dtype; float32 parameters trained in a bfloat16 computation run in bfloat16 autocast.
        of_other_trainer: whether another trainer trains the model: the adapter's own casts of its input stay, and all
            logits are computed at once, because devices that share weights must compute equally often.
        label_smoothing: probability mass spread over all tokens, in training mode only.
        neftune_alpha: noise on the embeddings, in training mode only; None for none.
        images: rule of the model's image processor, or why there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        machine: Machine,
        *,
        of_other_trainer: bool = False,
        label_smoothing: float = 0.0,
        neftune_alpha: float | None = None,
        images: ImageRule | Missing = NO_IMAGES,
    ) -> None:
        self.pixels = PixelReader(images) if isinstance(images, ImageRule) else None
        self.model = model
        self.machine = machine
        self._label_smoothing = label_smoothing
        self._neftune_alpha = neftune_alpha
        self._sources: Tensor | None = None
        self._noise: Tensor | None = None
        # FlexAttention has no backward pass on a CPU.
        self.takes_block_masks = machine.kind == "cuda"
        trained = {parameter.dtype for parameter in trainable(model).values()}
        self.autocast = machine.base_dtype != torch.float32 and trained == {torch.float32}
        if self.autocast and not of_other_trainer:
            # Autocast makes the one cast that is needed; PEFT would cast the input up first.
            for module in model.modules():
                if isinstance(module, BaseTunerLayer):
                    module.cast_input_dtype_enabled = False
        base = base_of(model)
        self._window, self._all_sliding = sliding_window(base.config)
        base.get_output_embeddings().register_forward_pre_hook(self._keep_sources)
        self._chunked: ChunkedLoss | None = None
        if not of_other_trainer and head_is_frozen(base):
            self._chunked = ChunkedLoss(model, base, label_chunk(base.config.get_text_config().vocab_size))
        if neftune_alpha is not None:
            base.get_input_embeddings().register_forward_hook(self._add_noise)

    @property
    def label_chunk(self) -> int | None:
        """Label positions with logits at once; None for all of a micro-batch."""
        return None if self._chunked is None else self._chunked.size

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """Return the negative log-likelihood of each label in nats, float32; shape [T].

        In training mode it is smoothed, and noise is on the embeddings, as the settings say.
        """
        device = self.machine.device
        inputs: dict[str, Any] = {"input_ids": send(torch.from_numpy(rows.token_ids), device)}
        if rows.masked:
            inputs["position_ids"] = send(torch.from_numpy(rows.positions), device)
            inputs["attention_mask"] = self._masks(rows)
        if rows.images:
            inputs |= self._pixels(rows)
        labels = send(torch.from_numpy(rows.labels), device)
        sources = send(torch.from_numpy(rows.sources), device)
        training = self.model.training
        label_smoothing = self._label_smoothing if training else 0.0
        if self._neftune_alpha is not None and training:
            self._noise = send(torch.from_numpy(noise_scale(rows, self._neftune_alpha)), device)
        try:
            rows_are_known = contextlib.nullcontext() if rows.masked else one_sequence_per_row()
            with torch.autocast(device.type, dtype=self.machine.base_dtype, enabled=self.autocast), rows_are_known:
                if self._chunked is not None and len(rows.labels) > self._chunked.size:
                    in_chunks = self._chunked(inputs, sources, labels, label_smoothing)
                    if in_chunks is not None:
                        return in_chunks
                    LOG.warning("this model's head cannot be computed in chunks, so all logits are computed at once")
                    self._chunked = None
                self._sources = sources
                logits = self.model(**inputs, use_cache=False).logits
        finally:
            self._sources = self._noise = None
        losses: Tensor = nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), labels, reduction="none", label_smoothing=label_smoothing
        )
        return losses

    def _pixels(self, rows: SequenceBatch) -> dict[str, Tensor]:
        assert self.pixels is not None, "rendered with its rule"
        found = pixel_inputs(self.pixels(rows.images), torch.from_numpy(rows.token_ids), self.pixels.rule)
        return {name: send(value, self.machine.device) for name, value in found.items()}

    def _keep_sources(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Select label positions before the head: hidden states of shape [R, W, H] become [1, T, H]."""
        if self._sources is None:
            return None
        (hidden,) = arguments
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._sources).unsqueeze(0),)

    def _add_noise(self, module: nn.Module, arguments: tuple[Tensor, ...], embedded: Tensor) -> Tensor | None:
        if self._noise is None:
            return None
        scale = (self._noise / embedded.shape[-1] ** 0.5).unsqueeze(-1)
        noisy: Tensor = embedded + (torch.empty_like(embedded).uniform_(-1, 1) * scale).to(embedded.dtype)
        return noisy

    def _masks(self, rows: SequenceBatch) -> Tensor | BlockMask | dict[str, Tensor] | dict[str, BlockMask]:
        """Return the mask of all layers, or one per type of layer if some attend within a window only."""
        if self.takes_block_masks and base_of(self.model).config._attn_implementation == FLEX:
            return self._block_masks(rows)
        seen = visible(rows.segments)
        if self._window is None or rows.positions.max() < self._window:
            return self._mask(seen)
        near = self._mask(seen & within(rows.positions, self._window))
        return near if self._all_sliding else {"full_attention": self._mask(seen), "sliding_attention": near}

    def _block_masks(self, rows: SequenceBatch) -> BlockMask | dict[str, BlockMask]:
        def mask(window: int | None) -> BlockMask:
            return block_mask(rows.segments, rows.positions, window, self.machine.device)

        if self._window is None or rows.positions.max() < self._window:
            return mask(None)
        near = mask(self._window)
        return near if self._all_sliding else {"full_attention": mask(None), "sliding_attention": near}

    def _mask(self, seen: NDArray[np.bool_]) -> Tensor:
        """Return an additive mask, shape [R, 1, W, W]; not boolean, because eager attention adds it."""
        device = self.machine.device
        # Padding may see itself: a token that sees nothing has no softmax.
        allowed = send(torch.from_numpy(seen), device) | torch.eye(seen.shape[-1], dtype=torch.bool, device=device)
        mask = torch.zeros(allowed.shape, dtype=self.machine.base_dtype, device=device)
        return mask.masked_fill_(~allowed, torch.finfo(mask.dtype).min).unsqueeze(1)


def sliding_window(config: PretrainedConfig) -> tuple[int | None, bool]:
    """Return the window of the layers with sliding-window attention, and whether that is all layers.

    The window is None if no layer has one.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None, False
    return int(window), kinds is None or set(kinds) == {"sliding_attention"}


def pixel_inputs(pixels: PixelBatch, token_ids: Tensor, rule: ImageRule) -> dict[str, Tensor]:
    """Return what a vision-language model needs of a micro-batch's images, apart from their tokens."""
    return {
        "pixel_values": torch.from_numpy(pixels.values),
        "image_grid_thw": torch.from_numpy(pixels.grids),
        "mm_token_type_ids": (token_ids == rule.token_id).int(),
    }


def noise_scale(rows: SequenceBatch, alpha: float) -> NDArray[np.float32]:
    """Return alpha / sqrt(L) of each token, where L is the length of its example; shape [R, W].

    NEFTune (Jain et al. 2023) adds uniform noise from [-1, 1] times alpha / sqrt(L d) to embeddings of width d.
    """
    scale = np.zeros(rows.segments.shape, dtype=np.float32)
    for row, segments in enumerate(rows.segments):
        for segment in np.unique(segments[segments != PADDING]):
            place = segments == segment
            # The last token of an example is a label only, and not in the row.
            scale[row, place] = alpha / (place.sum() + 1) ** 0.5
    return scale


class LossFunction(Protocol):
    """Loss of each label token of a micro-batch in nats, float32; shape [T]."""

    model: nn.Module
    pixels: PixelReader | None

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """Return the losses."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchGradient:
    """Request for a micro-batch's share of the gradient of a step's mean loss."""

    rows: SequenceBatch
    targets: int
    """Label tokens of the whole step."""


def add_gradient(target_loss: LossFunction, rows: SequenceBatch, targets: int) -> Tensor:
    """Add a micro-batch's share of the gradient of a step's mean loss. Return its share of that loss."""
    loss = target_loss(rows).sum() / targets
    loss.backward()
    return loss.detach()


@contextlib.contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Disable dropout and gradients for the length of a block."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def arrange_by_length(examples: Sequence[RenderedExample], layout: BatchLayout, together: int) -> list[SequenceBatch]:
    """Arrange items in rows, sorted by length to reduce padding."""
    ordered = sorted(examples, key=lambda item: len(item.prompt_ids) + len(item.answer_ids))
    return [arrange(ordered[i : i + together], layout) for i in range(0, len(ordered), together)]


def mean_loss(
    target_loss: LossFunction,
    rows: Iterable[SequenceBatch | None],
    group: Processes | None = None,
    idle: SequenceBatch | None = None,
) -> tuple[float, int]:
    """Return the mean loss over the label tokens in nats without dropout, and their number.

    Args:
        rows: items of this process; None in a round that has none for it.
        group: processes that share the items.
        idle: items computed in a round that has none for this process, and not counted: all processes take part in a
            forward pass of a sharded model.
    """
    parts: list[Tensor] = []
    targets = 0
    with scoring(target_loss.model):
        for row in rows:
            if row is None:
                if idle is not None:
                    target_loss(idle)
            else:
                parts.append(target_loss(row).double().sum())
                targets += len(row.labels)
    total = 0.0
    # Read once, at the end, because the host waits for a GPU there; and added one by one, as on any version of Python.
    for part in torch.stack(parts).tolist() if parts else ():
        total += part
    total, count = (group or Processes()).sums([total, targets])
    return total / count, int(count)


@contextlib.contextmanager
def one_sequence_per_row() -> Iterator[None]:
    """Skip the search of transformers for several sequences in a row, for the length of a block.

    It reads a tensor, so the host would wait for the GPU at the beginning of each forward pass.
    """
    name = "find_packed_sequence_indices"
    search = getattr(masking_utils, name, None)
    if search is None:
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, search)


@contextlib.contextmanager
def attending(model: nn.Module, implementation: str, usual: str) -> Iterator[None]:
    """Use another attention implementation for the length of a block; masks work with all of them."""
    if implementation == usual:
        yield
        return
    base = base_of(model)
    base.set_attn_implementation(implementation)
    try:
        yield
    finally:
        base.set_attn_implementation(usual)
