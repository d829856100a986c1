"""Shared parts of a trainer's `data.py`: rendered rows, truncated examples, micro-batches, and their forecast.

A row is rendered from a model's tokenizer and template alone; unverified behaviour is `Missing(reason)`.
A trainer's own part decides what is truncated or left out, which packer fills the rows, how rows become
micro-batches, and how many steps these make.
The order of a seeded shuffle is known before the run: a seeded `torch.randperm` on the CPU is a Mersenne Twister with a
Fisher-Yates shuffle (ATen/core/MT19937RNGEngine.h, ATen/native/TensorFactories.cpp, torch 2.13). Other trainers take
the order of the planner: equal examples in every step.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from touchline.backends.protocol import ExampleLengths
from touchline.core.estimate import MicroBatch
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import BatchForecast, BatchSettings, plan_batches
from touchline.data.packing.groups import count_lengths, lower_bound
from touchline.data.packing.simple import Filled
from touchline.data.rendering.text import Ids, ModelText, ShownRow
from touchline.experiment.plan import BatchSummary
from touchline.experiment.training import TrainConfig, accumulation_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSettings:
    """Rendering settings of a config."""

    template: str | None = None
    """The template that it names or holds; none: the model's own, or the trainer's default."""
    model: str = ""
    """The base model as the config names it; some trainers have one tokenizer per family."""
    dataset: str = ""
    """The format or builder of the dataset, `chat_template`, `alpaca`."""
    max_seq_len: int | None = None
    trains_on_prompt: bool | None = None
    """Whether the prompt has a loss too. None means the trainer's default."""
    answers_only: bool = False
    """Whether only text that the template marks as the model's has a loss: `assistant_only_loss`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRow:
    """Rendered form of a row, as training shows it to the model."""

    ids: Ids
    labels: tuple[bool, ...]
    uncut: int
    left_out: bool = False
    refused: bool = False

    @property
    def trained_ids(self) -> Ids:
        """Label tokens."""
        return tuple(token for token, label in zip(self.ids, self.labels, strict=True) if label)


class TrainingRow(Protocol):
    """A backend's own rendering of one row."""

    def __call__(self, text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
        """Return the row as this trainer renders it.

        Raises: ChatTemplateError if the template refuses the chat, which would end the training.
        """
        ...


def cut(ids: Ids, labels: tuple[bool, ...], limit: int | None) -> TrainedRow:
    """Return a row truncated at the limit."""
    return TrainedRow(ids=ids[:limit], labels=labels[:limit], uncut=len(ids))


_WORDS = 624
_MULTIPLIER = 1812433253
_LONGEST = (2**32 - 1) // 20
"""From here on torch draws 64 bits an item."""


def permutation(count: int, seed: int) -> NDArray[np.int64]:
    """Return `torch.randperm(count)` of a generator with this seed, in O(count).

    Raises:
        ValueError: torch shuffles so many items in another way, which is not simulated.
    """
    if count >= _LONGEST:
        raise ValueError(f"{count} items, but the order is known only for fewer than {_LONGEST}")
    return _permutation(count, seed % 2**32)


@functools.lru_cache(maxsize=8)
def _permutation(count: int, seed: int) -> NDArray[np.int64]:
    left = np.arange(count, 1, -1)
    swaps: list[int] = (_draws(seed, len(left)) % left + np.arange(len(left))).tolist()
    order = list(range(count))
    for index, other in enumerate(swaps):
        order[index], order[other] = order[other], order[index]
    result = np.asarray(order, np.int64)
    result.setflags(write=False)
    return result


def _draws(seed: int, count: int) -> NDArray[np.int64]:
    """Return the generator's first 32-bit numbers, shape [count]."""
    words = [seed]
    for index in range(1, _WORDS):
        words.append((_MULTIPLIER * (words[-1] ^ (words[-1] >> 30)) + index) % 2**32)
    generator = np.random.MT19937(seed)
    generator.state = {"bit_generator": "MT19937", "state": {"key": np.asarray(words, np.uint32), "pos": _WORDS}}
    return generator.random_raw(count).astype(np.int64)


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
        raise ValueError("batches need at least one example, with at least one token each")
    if with_loss.shape != total.shape or (with_loss > total).any() or (with_loss < 0).any():
        raise ValueError("each example needs a count of its label tokens, at most its length")
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
        filled: in which rows, as indices into `examples.kept`.
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


def planned_orders(lengths: NDArray[np.uint32], settings: BatchSettings) -> list[NDArray[np.int64]]:
    """Return the examples of each epoch in the planned order."""
    plan = plan_batches(
        np.asarray(lengths),
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.micro_batch_size,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    return [order.astype(np.int64) for order in plan.orders]


def planned_batches(train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1) -> BatchSummary | Missing:
    """Return the batches of a training that takes `global_batch_size` examples per step in the planned order.

    Args:
        devices: data-parallel size; each device takes every n-th micro-batch of a step.
    """
    if train.micro_batch_size == "auto":
        return Missing(missing="micro_batch_size is not resolved")
    total = lengths.total
    if not len(total):
        return Missing(missing="no examples")
    plan = plan_batches(
        total,
        global_batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch_size,
        epochs=train.epochs,
        seed=seed,
    )
    return BatchSummary(
        digest=plan.digest,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        micro_batches=plan.micro_batches,
        micro_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=accumulation_steps(plan.global_batch_size, plan.micro_batch_size, devices),
        data_parallel_size=devices,
        global_batch_size=plan.global_batch_size,
        num_examples=len(total),
        real_tokens=int(np.sum(total, dtype=np.int64)),
        target_tokens=int(np.sum(lengths.answer, dtype=np.int64)),
        longest_example_tokens=int(total.max()),
        largest_micro_batch_tokens=plan.largest_micro_batch_tokens(total),
    )


def packed_batches(forecast: BatchForecast, planned: BatchSummary, epochs: int) -> BatchSummary:
    """Return the batches of a trainer that packs before it batches: every size counts packed sequences."""
    digest = hashlib.sha256(f"packed {forecast.rows} {forecast.steps} {planned.micro_batch_size}".encode())
    digest.update(forecast.row_tokens.astype("<i8").tobytes())
    digest.update(forecast.micro_batch_tokens.astype("<i8").tobytes())
    return replace(
        planned,
        digest=digest.hexdigest(),
        steps=forecast.steps,
        steps_per_epoch=forecast.steps_per_epoch,
        micro_batches=len(forecast.micro_batch_tokens) * epochs,
        largest_micro_batch_tokens=forecast.largest.tokens,
    )
