"""Decoding of a batch of prompts; greedily, token for token what transformers' own greedy loop writes.

Why a loop of our own: prompts of one task begin alike (chat preamble, instruction), so the keys and values of that
common prefix are computed once and shared by the whole batch, which is exact; rows that have met their stop token
leave the batch; and logits are computed for the last position only. What remains is left-padded: the padding sits
between the shared prefix and each prompt's rest, is masked, and takes no position.

Which token comes next is asked of a function, so that drawn answers (`touchline.evaluate.sampling`) take the same way.
Not covered: beams, encoder-decoder models, models whose cache cannot be indexed by row (state-space
models).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import DynamicCache, PreTrainedModel

TokenIds = tuple[int, ...]
StopReason = Literal["stop", "max_tokens"]

Pick = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""(rows,) next tokens, of (rows, vocabulary) logits and the places of these rows among the prompts."""

COMPACT_FRACTION = 0.75
"""Rows that have ended are dropped when at most this share of the batch is left: dropping copies the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What the model wrote for one prompt."""

    ids: TokenIds
    """The new tokens, without the stop token."""
    stop_reason: StopReason
    """`stop` when the stop token was written, `max_tokens` when the limit ended it."""


@dataclass(slots=True)
class _Rows:
    """The rows that are still being written, and their place in the batch."""

    places: list[int]
    cache: DynamicCache
    mask: torch.Tensor
    """(rows, columns) 1 for a token, 0 for padding; columns as in the cache."""
    positions: torch.Tensor
    """(rows, 1) position of the next token."""
    tokens: torch.Tensor
    """(rows,) the last token written."""
    pick: Pick
    """Chooses the next tokens."""


def likeliest(logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Greedy: the likeliest token of each row."""
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
    go_on: Callable[[], None] = lambda: None,
    pick: Pick = likeliest,
) -> list[Generation]:
    """Write up to `max_new_tokens` tokens after each prompt, each chosen by `pick`.

    `model` takes and returns what transformers' causal language models do; `go_on` is called before each forward pass
    and raises to stop. Results are in the prompts' order. Raises ValueError for an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    if not prompts:
        return []
    stops = torch.tensor(sorted(stop_ids), device=model.device)
    written: list[list[int]] = [[] for _ in prompts]
    reasons: list[StopReason] = ["max_tokens"] * len(prompts)
    rows = _prefill(model, prompts, pad_id, go_on, pick)
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
        go_on()
        _step(model, rows)
    return [Generation(ids=tuple(ids), stop_reason=reason) for ids, reason in zip(written, reasons, strict=True)]


def common_prefix(prompts: Sequence[TokenIds]) -> int:
    """Tokens that all prompts begin with; at least one token of each prompt is left over."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length


def _prefill(
    model: PreTrainedModel, prompts: Sequence[TokenIds], pad_id: int, go_on: Callable[[], None], pick: Pick
) -> _Rows:
    """Run the prompts: the shared prefix once, then the rests side by side, which gives each its first new token."""
    device, count = model.device, len(prompts)
    shared = common_prefix(prompts)
    cache = DynamicCache(config=model.config)
    if shared:
        go_on()
        prefix = torch.tensor([prompts[0][:shared]], device=device)
        model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(count)
    rests = [prompt[shared:] for prompt in prompts]
    width = max(map(len, rests))
    ids = torch.tensor([[pad_id] * (width - len(rest)) + list(rest) for rest in rests], device=device)
    real = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device)
    mask = torch.cat([torch.ones((count, shared), dtype=real.dtype, device=device), real], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    go_on()
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


def _step(model: PreTrainedModel, rows: _Rows) -> None:
    """One more token for each row."""
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


def _keep(rows: _Rows, alive: list[int]) -> None:
    """Drop the rows that have ended."""
    index = torch.tensor(alive, device=rows.mask.device)
    rows.cache.batch_select_indices(index)
    rows.mask, rows.positions, rows.tokens = rows.mask[index], rows.positions[index], rows.tokens[index]
    rows.places = [rows.places[row] for row in alive]
