"""Rows and batches of touchline's own trainer: those of `packing.plan_batches`, laid out by `peft.layout`.

A step holds the same examples whether they are packed or not; packing only lays those of one micro-batch into fewer
rows. Nothing is cut and nothing left out. The last token of an example is a label and is never computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchline.backends.peft.layout import PADDED, ROW_TOKENS, SAMPLED_STEPS, WORTH_SHARING, BatchLayout, fill
from touchline.backends.simulation import (
    Examples,
    MicroBatches,
    RowSettings,
    TrainedRow,
    checked,
    forecast,
    simulated_epochs,
)
from touchline.core.estimate import MicroBatch
from touchline.core.units import plural
from touchline.data.packing.forecast import BatchForecast, Batching, BatchPlan, BatchSettings, plan_batches
from touchline.data.packing.simple import Filled, one_each
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.rendering.text import ModelText, ShownRow


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow:
    """Render a row by `rendering.ChatRenderer`. The trainer refuses an example that is too long; it truncates none.

    Raises:
        ChatTemplateError: the template refuses the chat, or writes an answer's turn differently from the prompt of one.
    """
    rendered = text.renderer.example(row.example)
    if not rendered.prompt_ids:
        raise ChatTemplateError(f"the prompt of example {row.example.id} is empty")
    ids = rendered.prompt_ids + rendered.answer_ids
    return TrainedRow(
        ids=ids,
        labels=(False,) * len(rendered.prompt_ids) + (True,) * len(rendered.answer_ids),
        uncut=len(ids),
        refused=settings.max_seq_len is not None and len(ids) > settings.max_seq_len,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftBatching:
    """The batching of `touchline.train`. Several devices take the micro-batches of a step in turn."""

    shared_prefix: int = 0
    """Tokens that all prompts begin with, which are computed once a row where that pays; 0 where none may be shared."""
    compiled: bool = False
    """Whether the model is compiled, so that rows have few widths."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples. Tokens are computed tokens: an example's tokens without the last.

        Raises:
            ValueError: a size is not positive, there is no example, or one has fewer than two tokens.
        """
        total, with_loss = checked(lengths, settings, labels)
        if total.min() < 2:
            raise ValueError("an example needs at least one prompt token and one answer token")
        computed = total - 1
        plan = plan_batches(
            np.asarray(lengths),
            global_batch_size=settings.global_batch_size,
            micro_batch_size=settings.micro_batch_size,
            epochs=settings.epochs,
            seed=settings.seed,
        )
        examples = Examples(
            kept=np.arange(len(total)),
            tokens=computed,
            labels=np.minimum(with_loss, computed),
            truncated=np.zeros(0, np.int64),
            answers_cut=np.zeros(0, np.int64),
            dropped=np.zeros(0, np.int64),
        )
        layout = self._layout(examples, plan, settings).for_training(
            compiled=self.compiled, max_seq_len=settings.max_seq_len
        )
        known = simulated_epochs(len(total), settings.epochs)
        epochs = [self._arranged(examples, plan, epoch, layout) for epoch in range(known)]
        bound: MicroBatch | None = None
        if known < settings.epochs:
            longest = np.sort(computed)[::-1][: plan.micro_batch_size]
            most_labels = int(np.sort(examples.labels)[::-1][: plan.micro_batch_size].sum())
            width = layout.padded_width(int(longest[0]), apart=not layout.several_per_row)
            bound = MicroBatch(rows=len(longest), width=width, label_tokens=most_labels)
        packed = settings.packed
        prefix = self.shared_prefix if packed and layout.share_prefix else 0
        own = replace(examples, tokens=computed - prefix)
        found = forecast(
            examples=own,
            filled=epochs[0][0] if packed else one_each(len(total)),
            settings=settings,
            # A row passes its limit for an example that is longer alone.
            capacity=max(settings.max_seq_len - prefix, int(own.tokens.max())),
            epochs=(batches for _, batches in epochs),
            bound=bound,
            steps=(plan.steps,) * 3,
            notes=_notes(total, settings, known, layout),
        )
        return replace(found, row_tokens=found.row_tokens + prefix)

    def _layout(self, examples: Examples, plan: BatchPlan, settings: BatchSettings) -> BatchLayout:
        """Return the trainer's layout, chosen by the same rule from a sample of micro-batches."""
        apart = BatchLayout(row_tokens=settings.max_seq_len) if settings.packed else PADDED
        if not self.shared_prefix:
            return apart
        shared = BatchLayout(row_tokens=settings.max_seq_len if settings.packed else ROW_TOKENS, share_prefix=True)
        steps = range(min(SAMPLED_STEPS, plan.steps_per_epoch))
        sample = [examples.tokens[batch].tolist() for step in steps for batch in plan.step(step)]

        def computed(layout: BatchLayout) -> int:
            filled = [fill(lengths, layout, self._prefix(len(lengths), layout)) for lengths in sample]
            return sum(len(members) * width for members, width in filled)

        return shared if 1 - computed(shared) / computed(apart) >= WORTH_SHARING else apart

    def _prefix(self, examples: int, layout: BatchLayout) -> int:
        """Return the shared prefix's length. A lone example shares nothing."""
        return self.shared_prefix if layout.share_prefix and examples > 1 else 0

    def _arranged(
        self, examples: Examples, plan: BatchPlan, epoch: int, layout: BatchLayout
    ) -> tuple[Filled, MicroBatches]:
        """Return the rows of an epoch and its micro-batches, with rows in micro-batch or dataset order."""
        first = epoch * plan.steps_per_epoch
        members = [batch for step in range(first, first + plan.steps_per_epoch) for batch in plan.step(step)]
        order = np.concatenate(members).astype(np.int64)
        sizes = np.asarray([len(batch) for batch in members])
        starts = np.cumsum(sizes) - sizes
        real = np.add.reduceat(examples.tokens[order], starts)
        if layout.several_per_row:
            in_batch = sizes
            filled, sizes, widths = self._rows(examples.tokens[order], order, starts, layout)
            if layout.share_prefix:
                # Of the shared tokens only those count that are computed: once a row.
                real = real - np.where(in_batch > 1, self.shared_prefix * (in_batch - sizes), 0)
        else:
            filled, longest = one_each(len(order)), np.maximum.reduceat(examples.tokens[order], starts)
            widths = np.asarray([layout.padded_width(width, apart=True) for width in longest.tolist()])
        return filled, MicroBatches(
            rows=sizes, widths=widths, labels=np.add.reduceat(examples.labels[order], starts), real=real
        )

    def _rows(
        self, tokens: NDArray[np.int64], order: NDArray[np.int64], starts: NDArray[np.int64], layout: BatchLayout
    ) -> tuple[Filled, NDArray[np.int64], NDArray[np.int64]]:
        lengths: list[int] = tokens.tolist()
        places: list[int] = []
        sizes: list[int] = []
        rows: list[int] = []
        widths: list[int] = []
        ends = [*starts[1:].tolist(), len(lengths)]
        for start, end in zip(starts.tolist(), ends, strict=True):
            members, width = fill(lengths[start:end], layout, self._prefix(end - start, layout))
            places += [start + index for row in members for index in row]
            sizes += [len(row) for row in members]
            rows.append(len(members))
            widths.append(width)
        in_row = np.asarray(sizes, np.int64)
        return Filled(items=order[places], starts=np.cumsum(in_row) - in_row), np.asarray(rows), np.asarray(widths)


def _notes(lengths: NDArray[np.int64], settings: BatchSettings, known: int, layout: BatchLayout) -> list[str]:
    notes = ["packing changes sequences and padding, not the steps"] if settings.packed else []
    if layout.share_prefix:
        notes.append(f"the common prefix of all prompts is computed once per sequence ({layout.name})")
    if layout.width_multiple > 1:
        notes.append(f"sequences are padded to multiples of {layout.width_multiple} tokens to compile few widths")
    too_long = int((lengths > settings.max_seq_len).sum())
    if too_long:
        notes.append(
            f"{plural(too_long, 'example')} longer than max_seq_len: this trainer does not truncate, and does not start"
        )
    if known < settings.epochs:
        notes.append(f"the order was counted for {known} of {settings.epochs} epochs (the largest is an upper bound)")
    return notes


BATCHING: Batching = PeftBatching()
