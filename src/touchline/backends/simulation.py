"""Shared parts of the batching simulations: truncated examples, rows in micro-batches, and their forecast.

A trainer's `batching.py` decides what is truncated or left out, which packer fills the rows, how rows become
micro-batches, and how many steps these make.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.core.estimate import MicroBatch
from touchline.data.packing.bounds import lower_bound
from touchline.data.packing.forecast import BatchForecast, BatchSettings
from touchline.data.packing.lengths import count_lengths
from touchline.data.packing.simple import Filled

SHUFFLED_ROWS = 4_000_000
"""Rows, over the epochs, whose order is simulated; the epochs after those are bounded instead."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examples:
    """A dataset as a trainer takes it in."""

    kept: NDArray[np.int64]
    """Indices of the examples that are trained on; shape [kept]."""
    tokens: NDArray[np.int64]
    """Tokens left per example, shape [kept]."""
    labels: NDArray[np.int64]
    """Of these, tokens with a loss; shape [kept]."""
    truncated: NDArray[np.int64]
    """Indices of those that lost tokens."""
    answers_cut: NDArray[np.int64]
    """Indices of those that lost tokens with a loss."""
    dropped: NDArray[np.int64]
    """Indices of those that are left out."""

    @property
    def without_label(self) -> int:
        """Examples that are computed, and teach nothing."""
        return int((self.labels == 0).sum())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MicroBatches:
    """Micro-batches in order; each array of shape [micro-batches]."""

    rows: NDArray[np.int64]
    """Sequences side by side."""
    widths: NDArray[np.int64]
    """Tokens of each, padding included."""
    labels: NDArray[np.int64]
    """Tokens with a loss."""
    real: NDArray[np.int64]
    """Tokens that are no padding."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Padded tokens."""
        return self.rows * self.widths

    def largest(self) -> MicroBatch:
        """Return the micro-batch with the most padded tokens, the first if several tie."""
        if not len(self.rows):
            return MicroBatch(rows=0, width=0, label_tokens=0)
        at = int(self.tokens.argmax())
        return MicroBatch(rows=int(self.rows[at]), width=int(self.widths[at]), label_tokens=int(self.labels[at]))


def checked(
    lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths and labels as int64.

    Raises:
        ValueError: a size is not positive, an example has no token or more labels than tokens, or there is none.
    """
    sizes = (settings.max_seq_len, settings.micro_batch_size, settings.gradient_accumulation_steps)
    if min(*sizes, settings.data_parallel_size, settings.epochs) < 1:
        raise ValueError(f"sizes of batches are at least 1: {settings}")
    total = np.asarray(lengths).astype(np.int64)
    with_loss = total if labels is None else np.asarray(labels).astype(np.int64)
    if total.ndim != 1 or not len(total) or total.min() < 1:
        raise ValueError("batches need at least one example, and examples at least one token each")
    if with_loss.shape != total.shape or (with_loss > total).any() or (with_loss < 0).any():
        raise ValueError("each example needs a count of its tokens with a loss, at most its length")
    return total, with_loss


def cut_at_end(lengths: NDArray[np.int64], labels: NDArray[np.int64], limit: int) -> Examples:
    """Return the first `limit` tokens of every example. The answer comes last, so it is truncated first."""
    lost = np.maximum(lengths - limit, 0)
    left = np.maximum(labels - lost, 0)
    return Examples(
        kept=np.arange(len(lengths)),
        tokens=lengths - lost,
        labels=left,
        truncated=np.flatnonzero(lost),
        answers_cut=np.flatnonzero(left < labels),
        dropped=np.zeros(0, np.int64),
    )


def keep(examples: Examples, which: NDArray[np.bool_]) -> Examples:
    """Return the examples with only `which` of the kept ones. The others count as dropped, and not as truncated."""
    dropped = examples.kept[~which]
    return Examples(
        kept=examples.kept[which],
        tokens=examples.tokens[which],
        labels=examples.labels[which],
        truncated=np.setdiff1d(examples.truncated, dropped),
        answers_cut=np.setdiff1d(examples.answers_cut, dropped),
        dropped=np.union1d(examples.dropped, dropped),
    )


def side_by_side(
    tokens: NDArray[np.int64],
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
    micro_batch_size: int,
    *,
    multiple: int = 1,
    width: int | None = None,
) -> MicroBatches:
    """Return micro-batches whose rows have one width: the longest in the micro-batch, rounded up, or `width`.

    Args:
        tokens: tokens of each row; shape [rows].
        labels: of these, with a loss; shape [rows].
        order: the rows as they are taken; a row may come more than once.
        micro_batch_size: rows of a micro-batch; the last may have fewer.
        multiple: what widths are rounded up to.
        width: the width of every row, where it does not depend on the micro-batch.
    """
    starts = np.arange(0, len(order), micro_batch_size)
    if not len(starts):
        return MicroBatches(rows=starts, widths=starts, labels=starts, real=starts)
    longest = np.maximum.reduceat(tokens[order], starts) if width is None else np.full(len(starts), width)
    return MicroBatches(
        rows=np.diff(np.append(starts, len(order))),
        widths=-(-longest // multiple) * multiple,
        labels=np.add.reduceat(labels[order], starts),
        real=np.add.reduceat(tokens[order], starts),
    )


def in_one_row(batches: MicroBatches, *, multiple: int = 1) -> MicroBatches:
    """Concatenate the examples of each micro-batch in one row, with padding only for rounding."""
    return MicroBatches(
        rows=np.minimum(batches.rows, 1),
        widths=-(-batches.real // multiple) * multiple,
        labels=batches.labels,
        real=batches.real,
    )


def forecast(
    *,
    examples: Examples,
    filled: Filled,
    settings: BatchSettings,
    capacity: int,
    epochs: Iterable[MicroBatches],
    bound: MicroBatch | None = None,
    steps: tuple[int, int, int],
    rows_left_over: int = 0,
    notes: Iterable[str] = (),
) -> BatchForecast:
    """Put a forecast together.

    Args:
        examples: what is trained on.
        filled: in which rows, as indices into `examples.kept`.
        settings: the settings.
        capacity: most tokens per sequence.
        epochs: micro-batches of each epoch whose order is known, at least the first.
        bound: what no micro-batch of the other epochs can exceed; none: there are no others.
        steps: of all epochs: what is expected, the fewest, the most.
        rows_left_over: rows of an epoch that no step uses.
        notes: what one would not expect.
    """
    several = list(epochs)
    candidates = [batches.largest() for batches in several] + ([bound] if bound else [])
    tokens = filled.sums(examples.tokens)
    expected, low, high = steps
    return BatchForecast(
        rows=filled.rows,
        lower_bound=lower_bound(count_lengths(examples.tokens, capacity), capacity) if settings.packed else filled.rows,
        examples=len(filled.items),
        truncated=examples.truncated,
        dropped=examples.dropped,
        answers_cut=examples.answers_cut,
        row_tokens=tokens,
        micro_batch_tokens=several[0].tokens,
        largest=max(candidates, key=lambda batch: batch.tokens),
        steps_per_epoch=expected // settings.epochs,
        steps=expected,
        steps_low=low,
        steps_high=high,
        rows_left_over=rows_left_over,
        notes=tuple(notes),
        computed_real_tokens=int(several[0].real.sum()),
    )


def simulated_epochs(rows: int, epochs: int) -> int:
    """Return the number of epochs to simulate: all, except for very many rows."""
    return min(epochs, max(1, SHUFFLED_ROWS // max(rows, 1)))
