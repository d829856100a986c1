"""Layouts of a micro-batch's examples in rows: padded, packed, or behind a shared prefix.

A row is an optional shared prefix (segment 0) and one segment per example (1, 2, ...). A token attends to earlier
tokens of its own segment, and to the prefix. Positions of a segment continue where the prefix ends. So an example has
the same positions, attention and loss in every layout.

An example's last token is a label only and is never computed, because nothing follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchline.core.catalog import RenderedExample
from touchline.data.rendering.chat import common_prefix

ROW_TOKENS = 512
"""Tokens of a row with a shared prefix. Every token of a row is scored against every other, also where the mask hides
the result, so attention costs the row's length squared; up to some 512 tokens that stays small next to the linear
layers."""
WORTH_SHARING = 0.2
"""Share of the computed tokens that a shared prefix must save; below it the mask costs about what the tokens save."""
SAMPLED_STEPS = 64
"""Steps whose tokens are counted to choose the layout."""
LOGITS_AT_ONCE = 2**26
"""Label positions times vocabulary entries with logits at once: 0.75 GiB at 12 bytes each, and products that are large
enough for any GPU."""
COMPILED_WIDTH = 64
"""Multiple that rows of a compiled training are padded to, because every width is compiled on its own."""
PADDING = -1
SHARED = 0


def plain_attention(device: str, widest_row: int) -> bool:
    """Return True if plain matrix products beat the fused attention kernel: on a CPU, up to a width.

    The fused kernel's backward pass is slow there, and the square that it avoids is small.
    """
    return device == "cpu" and widest_row <= ROW_TOKENS


def label_chunk(vocabulary: int) -> int:
    """Return the label positions whose logits are computed at once."""
    return max(1, LOGITS_AT_ONCE // vocabulary)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLayout:
    """A way to arrange examples."""

    row_tokens: int | None = None
    """Tokens that a row may hold; none: every example has a row of its own."""
    share_prefix: bool = False
    """Whether the tokens that all prompts of a micro-batch begin with are computed once a row."""
    width_multiple: int = 1
    """Number of tokens that rows are padded to a multiple of."""
    width_limit: int | None = None
    """Width that rows of one example are not padded beyond; None for none."""

    def for_training(self, *, compiled: bool, max_seq_len: int) -> BatchLayout:
        """Return the layout of training rows: those of a compiled training have few widths.

        Args:
            max_seq_len: tokens that a row of one example is not padded beyond, since padding counts positions too, and
                the model may support no more.
        """
        return replace(self, width_multiple=COMPILED_WIDTH, width_limit=max_seq_len) if compiled else self

    def padded_width(self, tokens: int, *, apart: bool) -> int:
        """Return the width of rows of which the longest holds so many tokens.

        Args:
            apart: whether each example has a row of its own.
        """
        width = -(-tokens // self.width_multiple) * self.width_multiple
        return max(tokens, min(width, self.width_limit)) if apart and self.width_limit is not None else width

    @property
    def several_per_row(self) -> bool:
        """Return True if examples share a row, so that they must be hidden from each other."""
        return self.row_tokens is not None

    @property
    def name(self) -> str:
        """`padded`, `packed` or `shared prefix`, with the row's limit."""
        if self.row_tokens is None:
            return "padded"
        return f"{'shared prefix' if self.share_prefix else 'packed'}, rows of {self.row_tokens} tokens"


PADDED = BatchLayout()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SequenceBatch:
    """A micro-batch in rows; R rows of width W, T targets."""

    token_ids: NDArray[np.int64]
    """Tokens, padded on the right; shape [R, W]."""
    positions: NDArray[np.int64]
    """Position of each token in its own example; 0 for padding; shape [R, W]."""
    segments: NDArray[np.int64]
    """-1 padding, 0 shared prefix, 1, 2, ... the examples of the row; shape [R, W]."""
    sources: NDArray[np.int64]
    """Index, in the flattened rows, of the token that predicts each target; shape [T]."""
    labels: NDArray[np.int64]
    owners: NDArray[np.int64]
    """Index in the micro-batch of each target's example; shape [T]."""
    masked: bool
    """Whether a row holds more than one example, so that causal attention alone is not enough."""
    images: tuple[str, ...] = ()
    """Files of the images of all prompts, in the order of the rows."""

    @property
    def computed_tokens(self) -> int:
        """Positions that the model computes, padding included."""
        return int(self.token_ids.size)

    @property
    def squared_widths(self) -> int:
        """Sum over the rows of the width squared: what attention's scores grow with."""
        rows, width = self.token_ids.shape
        return int(rows * width**2)


def visible(segments: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether token i attends to token j. The shape is [R, W, W], from segments of shape [R, W]. No token
    attends to padding.
    """
    queries, keys = segments[:, :, None], segments[:, None, :]
    width = segments.shape[1]
    before = np.tril(np.ones((width, width), dtype=np.bool_))
    seen: NDArray[np.bool_] = ((queries == keys) | ((keys == SHARED) & (queries > SHARED))) & before & (keys != PADDING)
    return seen


def within(positions: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Return whether token j is at most `window - 1` tokens before token i in its example, as sliding-window attention
    demands. The shape is [R, W, W], from positions of shape [R, W].
    """
    near: NDArray[np.bool_] = positions[:, :, None] - positions[:, None, :] < window
    return near


def arrange(examples: Sequence[RenderedExample], layout: BatchLayout, pad_id: int = 0) -> SequenceBatch:
    """Arrange a micro-batch.

    Args:
        examples: at least one; each with at least one token in prompt and answer.

    Raises:
        ValueError: an example has no prompt or no answer.
    """
    if not examples or any(not example.prompt_ids or not example.answer_ids for example in examples):
        raise ValueError("a micro-batch needs examples, each with a prompt and an answer")
    prefix, members, width = _rows_of(examples, layout)
    inputs = [(example.prompt_ids + example.answer_ids)[:-1] for example in examples]
    shape = (len(members), width)
    token_ids = np.full(shape, pad_id, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, PADDING, dtype=np.int64)
    sources: list[NDArray[np.int64]] = []
    for number, row in enumerate(members):
        token_ids[number, :prefix] = inputs[row[0]][:prefix]
        positions[number, :prefix] = np.arange(prefix)
        segments[number, :prefix] = SHARED
        start = prefix
        for segment, index in enumerate(row, start=1):
            ids = inputs[index][prefix:]
            end = start + len(ids)
            token_ids[number, start:end] = ids
            positions[number, start:end] = np.arange(prefix, prefix + len(ids))
            segments[number, start:end] = segment
            sources.append(np.arange(end - len(examples[index].answer_ids), end) + number * width)
            start = end
    order = [index for row in members for index in row]
    return SequenceBatch(
        token_ids=token_ids,
        positions=positions,
        segments=segments,
        sources=np.concatenate(sources),
        labels=np.concatenate([np.asarray(examples[index].answer_ids, dtype=np.int64) for index in order]),
        owners=np.repeat(np.asarray(order, dtype=np.int64), [len(examples[index].answer_ids) for index in order]),
        masked=len(members) < len(examples),
        images=tuple(path for index in order for path in examples[index].images),
    )


def shape_of(examples: Sequence[RenderedExample], layout: BatchLayout) -> tuple[int, int, bool]:
    """Return the rows and the width of a micro-batch, and whether its rows have masks, without arranging it."""
    _, members, width = _rows_of(examples, layout)
    return len(members), width, len(members) < len(examples)


def _rows_of(examples: Sequence[RenderedExample], layout: BatchLayout) -> tuple[int, list[list[int]], int]:
    """Return the tokens of the shared prefix, the examples of each row, and the width of the rows."""
    prefix = common_prefix([example.prompt_ids for example in examples]) if layout.share_prefix else 0
    lengths = [len(example.prompt_ids) + len(example.answer_ids) - 1 for example in examples]
    return prefix, *fill(lengths, layout, prefix)


def stack(batches: Sequence[SequenceBatch], pad_id: int = 0) -> SequenceBatch:
    """Put micro-batches of several runs below each other, each in a block of as many rows.

    Args:
        batches: at least one, without images; the targets follow each other in this order.

    Returns:
        A micro-batch of `len(batches) * R` rows, R and the width being the largest of all. Rows that only fill a block
        predict nothing.
    """
    rows = max(batch.token_ids.shape[0] for batch in batches)
    width = max(batch.token_ids.shape[1] for batch in batches)
    shape = (len(batches) * rows, width)
    token_ids = np.full(shape, pad_id, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, PADDING, dtype=np.int64)
    sources: list[NDArray[np.int64]] = []
    owners: list[NDArray[np.int64]] = []
    for block, batch in enumerate(batches):
        own_rows, own_width = batch.token_ids.shape
        place = (slice(block * rows, block * rows + own_rows), slice(own_width))
        token_ids[place], positions[place], segments[place] = batch.token_ids, batch.positions, batch.segments
        row, column = np.divmod(batch.sources, own_width)
        sources.append((block * rows + row) * width + column)
        owners.append(batch.owners + sum(int(other.owners.max()) + 1 for other in batches[:block]))
    return SequenceBatch(
        token_ids=token_ids,
        positions=positions,
        segments=segments,
        sources=np.concatenate(sources),
        labels=np.concatenate([batch.labels for batch in batches]),
        owners=np.concatenate(owners),
        masked=any(batch.masked for batch in batches),
    )


def fill(lengths: Sequence[int], layout: BatchLayout, prefix: int = 0) -> tuple[list[list[int]], int]:
    """Assign examples to rows: as few rows as the limit allows, filled evenly to minimize padding.

    Args:
        lengths: tokens that are computed of each example: all but its last; at least one example.
        prefix: of these, tokens that all examples share; 0 where the layout shares none.

    Returns:
        The examples of each row, and the rows' width in tokens.
    """
    own = [length - prefix for length in lengths]
    members = _members(own, layout, prefix)
    longest = max(prefix + sum(own[index] for index in row) for row in members)
    return members, layout.padded_width(longest, apart=len(members) == len(lengths))


def _members(lengths: Sequence[int], layout: BatchLayout, prefix: int) -> list[list[int]]:
    count = len(lengths)
    if layout.row_tokens is None:
        return [[index] for index in range(count)]
    # A long prefix must leave room behind it: sharing it is what the row is for.
    limit = max(layout.row_tokens, prefix + layout.row_tokens // 2) if prefix else layout.row_tokens
    room = max(limit - prefix, *lengths)
    longest_first = sorted(range(count), key=lambda index: (-lengths[index], index))
    for rows in range(max(-(-sum(lengths) // room), 1), count + 1):
        members: list[list[int]] = [[] for _ in range(rows)]
        used = [0] * rows
        for index in longest_first:
            row = min(range(rows), key=used.__getitem__)
            members[row].append(index)
            used[row] += lengths[index]
        if max(used) <= room:
            return [sorted(row) for row in members]
    raise AssertionError("one sequence per example always fits")


def choose_layout(
    micro_batches: Sequence[Sequence[RenderedExample]], *, packed: bool, max_seq_len: int, obstacle: str | None
) -> tuple[BatchLayout, str]:
    """Return the layout of a training, and the reason.

    Args:
        packed: whether several examples were asked to share a row.
        max_seq_len: longest row of a packed layout, in tokens.
        obstacle: why a prefix must not be shared; none when it may.
    """
    layout = BatchLayout(row_tokens=max_seq_len, share_prefix=obstacle is None) if packed else PADDED
    if obstacle is not None:
        return layout, f"{'packed as written' if packed else 'padded'}, {obstacle}"
    shared = layout if packed else BatchLayout(row_tokens=ROW_TOKENS, share_prefix=True)
    apart = BatchLayout(row_tokens=max_seq_len) if packed else PADDED
    with_prefix = sum(arrange(examples, shared).computed_tokens for examples in micro_batches)
    without = sum(arrange(examples, apart).computed_tokens for examples in micro_batches)
    saved = 1 - with_prefix / without
    if saved >= WORTH_SHARING:
        return shared, f"{'packed as written, ' if packed else ''}a shared prefix saves {saved:.0%} of the tokens"
    return (
        apart,
        (
            f"{'packed as written' if packed else 'padded'}, a shared prefix would save {max(saved, 0):.0%} of "
            "the tokens"
        ),
    )
