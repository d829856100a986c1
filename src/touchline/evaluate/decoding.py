"""Batched decoding; greedy results equal those of transformers' own greedy loop token by token.

Prompts of one task share a prefix (chat preamble, instruction), so its keys and values are computed once and shared by
the batch, which is exact. Finished rows leave the batch, and logits are computed for the last position only. The rest
is left-padded: padding lies between the shared prefix and each prompt's rest, is masked, and has no position. A prefix
that several batches share can be given with its keys and values. Rows may belong to different variants of the model
(adapters), each with its own prefix; before each forward pass a function gets the variant of each row.

A function picks the next tokens, so sampled answers use the same loop. Each has its own random stream, whatever its
batch and model: models are compared with common random numbers. Each token takes one number, looked up in the
cumulative probabilities, most likely token first. Not supported: beams, encoder-decoder models, models whose cache
cannot be indexed by row (state-space models).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Sampling settings."""

    temperature: float
    """Divisor of the logits; above 0."""
    top_p: float = 1.0
    """Cumulative probability of the candidate tokens; above 0, at most 1."""


class Drawing:
    """Sampler of the next tokens of a batch; create one per batch.

    Args:
        streams: stream of each prompt, in order.
    """

    def __init__(self, sampling: Sampling, streams: Sequence[int]) -> None:
        self._sampling = sampling
        self._generators = [np.random.Generator(np.random.Philox(key=stream)) for stream in streams]

    def __call__(self, logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Return (rows,) tokens.

        Args:
            logits: (rows, vocabulary) of the last position.
            places: prompt index of each row.
        """
        numbers = [self._generators[place].random() for place in places]
        probabilities, tokens = distribution(logits, self._sampling)
        reached = probabilities.cumsum(dim=-1)
        # Of what the cumulated sum reaches, so that rounding never leaves the last token out.
        wanted = torch.tensor(numbers, dtype=reached.dtype, device=reached.device)[:, None] * reached[:, -1:]
        index = torch.searchsorted(reached, wanted, right=True).clamp(max=reached.shape[-1] - 1)
        return tokens.gather(-1, index).squeeze(-1)


def distribution(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (probabilities, tokens), both (rows, vocabulary), most likely first; 0 for excluded tokens.

    The candidates are those of transformers' temperature and top-p: the smallest set that reaches `top_p`.
    """
    scaled = logits.to(torch.float64) / sampling.temperature
    probabilities, tokens = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return probabilities, tokens


TokenIds = tuple[int, ...]
Pixels = Mapping[str, torch.Tensor]
"""Arguments of a vision-language model for the images of a batch, in the order of its prompts."""
StopReason = Literal["stop", "max_tokens"]

Pick = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""Function from (rows, vocabulary) logits and the rows' prompt indexes to (rows,) next tokens."""

BeforePass = Callable[[Sequence[int]], None]
"""Function called before each forward pass with the variant of each of its rows; raises to stop."""

COMPACT_FRACTION = 0.75
"""Fraction of remaining rows at which finished rows are dropped, because dropping copies the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Generated answer to one prompt."""

    ids: TokenIds
    """New tokens, without the stop token."""
    stop_reason: StopReason
    """`stop` for the stop token, `max_tokens` for the limit."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prefix:
    """First tokens of prompts, with their keys and values."""

    ids: TokenIds
    cache: DynamicCache
    """Keys and values, one row for each variant of the model."""


@dataclass(slots=True)
class _Rows:
    """Unfinished rows of the batch."""

    places: list[int]
    cache: DynamicCache
    mask: torch.Tensor
    """(rows, columns) 1 for a token, 0 for padding; columns as in the cache."""
    positions: torch.Tensor
    """(rows, 1) position of the next token."""
    tokens: torch.Tensor
    """(rows,) last generated token."""
    pick: Pick


def likeliest(logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Return the most likely token of each row (greedy)."""
    del places
    return logits.argmax(dim=-1)


@torch.inference_mode()
def write_answers(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    *,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    pad_id: int,
    before_pass: BeforePass = lambda variants: None,
    pick: Pick = likeliest,
    images: tuple[int, Pixels] | None = None,
    prefix: Prefix | None = None,
    variants: Sequence[int] | None = None,
) -> list[Generation]:
    """Generate up to `max_new_tokens` tokens per prompt, each chosen by `pick`.

    `model` follows the interface of transformers' causal language models. `images` holds the token of images and the
    pixels of all prompts. `prefix` begins every prompt and is shorter than each; without it, `shared_prefix` is
    computed. `variants` holds the number of each prompt's variant of the model, from 0; all are 0 if None. Results are
    in the order of the prompts.
    Raises ValueError for an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    if not prompts:
        return []
    if variants is None:
        variants = [0] * len(prompts)
    stops = torch.tensor(sorted(stop_ids), device=model.device)
    written: list[list[int]] = [[] for _ in prompts]
    reasons: list[StopReason] = ["max_tokens"] * len(prompts)
    if images is None:
        rows = _prefill(model, prompts, pad_id, before_pass, pick, prefix, variants, max_new_tokens)
    else:
        rows = _prefill_with_images(model, prompts, pad_id, before_pass, pick, *images)
    for left in range(max_new_tokens - 1, -1, -1):
        ended = torch.isin(rows.tokens, stops).tolist()
        for place, token, end in zip(rows.places, rows.tokens.tolist(), ended, strict=True):
            if reasons[place] == "stop":
                continue
            if end:
                reasons[place] = "stop"
            else:
                written[place].append(token)
        alive = [row for row, place in enumerate(rows.places) if reasons[place] != "stop"]
        if not alive or left == 0:
            break
        if len(alive) <= COMPACT_FRACTION * len(rows.places):
            _keep(rows, alive)
        before_pass([variants[place] for place in rows.places])
        _step(model, rows)
    return [Generation(ids=tuple(ids), stop_reason=reason) for ids, reason in zip(written, reasons, strict=True)]


def common_prefix(prompts: Sequence[TokenIds]) -> int:
    """Return the length of the common prefix; at least one token of each prompt is left over."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length


def shared_prefix(model: PreTrainedModel, prompts: Sequence[TokenIds], max_new_tokens: int) -> int:
    """Return the length of the common prefix that may be computed once.

    A layer with a sliding window counts padding between the prefix and the rest as tokens, so there is none where
    prompts of unequal length reach beyond the window.
    """
    lengths = [len(prompt) for prompt in prompts]
    layers = DynamicCache(config=model.config).layers
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    if min(lengths) < max(lengths) and max(lengths) + max_new_tokens > min(windows, default=math.inf):
        return 0
    return common_prefix(prompts)


@torch.inference_mode()
def read_prefix(model: PreTrainedModel, ids: TokenIds, before_pass: BeforePass, variants: int = 1) -> Prefix:
    """Compute the keys and values of the first tokens of prompts, for each variant of the model."""
    cache = DynamicCache(config=model.config)
    if ids:
        before_pass(range(variants))
        model(
            input_ids=torch.tensor([ids] * variants, device=model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return Prefix(ids=ids, cache=cache)


def _prefill(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    pad_id: int,
    before_pass: BeforePass,
    pick: Pick,
    prefix: Prefix | None,
    variants: Sequence[int],
    max_new_tokens: int,
) -> _Rows:
    """Run the prompts: the shared prefix once, then the rests as a batch. Return the rows with their first tokens."""
    device, count = model.device, len(prompts)
    if prefix is None:
        shared = shared_prefix(model, prompts, max_new_tokens)
        cache = read_prefix(model, prompts[0][:shared], before_pass, max(variants) + 1).cache
    else:
        shared, cache = len(prefix.ids), copy.deepcopy(prefix.cache)
    if shared:
        _select_rows(cache, torch.tensor(variants, device=device))
    rests = [prompt[shared:] for prompt in prompts]
    width = max(map(len, rests))
    ids = torch.tensor([[pad_id] * (width - len(rest)) + list(rest) for rest in rests], device=device)
    real = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device)
    mask = torch.cat([torch.ones((count, shared), dtype=real.dtype, device=device), real], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    before_pass(variants)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    places = list(range(count))
    return _Rows(
        places=places,
        cache=cache,
        mask=mask,
        positions=positions[:, -1:] + 1,
        tokens=pick(output.logits[:, -1], places),
        pick=pick,
    )


def _prefill_with_images(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    pad_id: int,
    before_pass: BeforePass,
    pick: Pick,
    image_token: int,
    pixels: Pixels,
) -> _Rows:
    """Run prompts with images as one batch. Return the rows with their first tokens."""
    device, width = model.device, max(map(len, prompts))
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    before_pass([0] * len(prompts))
    output = model(
        input_ids=ids,
        attention_mask=mask,
        mm_token_type_ids=(ids == image_token).int(),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **{name: value.to(device) for name, value in pixels.items()},
    )
    places = list(range(len(prompts)))
    return _Rows(
        places=places,
        cache=cache,
        mask=mask,
        # An image takes fewer positions than tokens; the model keeps by how many.
        positions=mask.sum(dim=1, keepdim=True) + model.model.rope_deltas,
        tokens=pick(output.logits[:, -1], places),
        pick=pick,
    )


def _step(model: PreTrainedModel, rows: _Rows) -> None:
    rows.mask = torch.cat([rows.mask, rows.mask.new_ones((len(rows.places), 1))], dim=1)
    output = model(
        input_ids=rows.tokens[:, None],
        attention_mask=rows.mask,
        position_ids=rows.positions,
        past_key_values=rows.cache,
        use_cache=True,
        logits_to_keep=1,
    )
    rows.tokens = rows.pick(output.logits[:, -1], rows.places)
    rows.positions = rows.positions + 1


def _select_rows(cache: DynamicCache, index: torch.Tensor) -> None:
    """Keep some rows of the keys and values, which lie where their layer does."""
    for layer in cache.layers:
        layer.batch_select_indices(index.to(layer.keys.device))


def _keep(rows: _Rows, alive: list[int]) -> None:
    index = torch.tensor(alive, device=rows.mask.device)
    _select_rows(rows.cache, index)
    rows.mask, rows.positions, rows.tokens = rows.mask[index], rows.positions[index], rows.tokens[index]
    rows.places = [rows.places[row] for row in alive]
