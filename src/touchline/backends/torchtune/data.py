"""Rows and batches of torchtune's recipes (0.6.1).

Read in datasets/_packed.py, data/{_collate,_utils}.py and recipes/lora_finetune_{single_device,distributed}.py.

The tokenizer truncates at `max_seq_len`. With packing, each example goes into the last pack or starts a new one, in the
dataset's order. The packs are the same in all epochs, and each is padded to `max_seq_len`. Without packing, a
micro-batch is padded to its longest example. The sampler's seed is 0, independent of the recipe's seed. An incomplete
last micro-batch is dropped, and the last micro-batches of an epoch without a full accumulation make no step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchline.backends.simulation import (
    Examples,
    MicroBatches,
    RowSettings,
    TrainedRow,
    checked,
    cut_at_end,
    forecast,
    permutation,
    planned_orders,
    side_by_side,
    simulated_epochs,
)
from touchline.core.catalog import Message
from touchline.core.estimate import MicroBatch
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import Filled, next_fit, one_each
from touchline.data.rendering.text import Ids, ModelText, ShownRow
from touchline.experiment.training import optimizer_steps

Turn = tuple[Ids, bool]
"""The tokens of a turn, and whether the loss is taken on them."""


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
    """Render a row by the tokenizer of the model's family. Return Missing for an unknown family."""
    if row.media:
        return Missing(missing="rows with images need the model's transform, which is not simulated")
    if settings.template:
        return Missing(missing=f"the prompt template {settings.template!r} is code or a mapping that cannot be read")
    if row.form == "instruction" and "alpaca" in settings.dataset:
        return Missing(missing="alpaca datasets join the columns with their own template")
    messages = (*row.example.prompt, Message(role="assistant", content=row.example.answer))
    if "llama3" in settings.model and text.id("<|start_header_id|>") is not None:
        return _llama3(text, messages, settings)
    if "qwen" in settings.model and text.id("<|im_start|>") is not None:
        return _qwen(text, messages, settings)
    return Missing(missing="only torchtune's tokenizers of Llama 3 and Qwen 2 are supported here")


def _llama3(text: ModelText, messages: tuple[Message, ...], settings: RowSettings) -> TrainedRow | Missing:
    marks = [text.id(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id")]
    begin, end, opening, closing = marks
    turn_end = text.id("<|eot_id|>")
    if begin is None or end is None or opening is None or closing is None or turn_end is None:
        return Missing(missing="the tokenizer lacks special tokens of Llama 3")
    turns: list[Turn] = [((begin,), False)]
    for message in messages:
        header = (opening, *text.ids(message.role.strip()), closing, *text.ids("\n\n"))
        body = text.ids(message.content.strip())
        turns.append(((*header, *body, turn_end), _trained(message, settings)))
    return _joined(turns, (end,), False, settings.max_seq_len)


def _qwen(text: ModelText, messages: tuple[Message, ...], settings: RowSettings) -> TrainedRow | Missing:
    opening, turn_end = text.id("<|im_start|>"), text.id("<|im_end|>")
    # Qwen 2 ends a row with its end of text, Qwen 2.5 and later with the end of a turn.
    end = text.id("<|endoftext|>") if "qwen2_5" not in settings.model and "qwen3" not in settings.model else turn_end
    if opening is None or turn_end is None or end is None:
        return Missing(missing="the tokenizer lacks special tokens of Qwen")
    if "qwen3" in settings.model:
        return Missing(missing="torchtune's tokenizer of Qwen 3 is not supported here")
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        ids = (opening, *text.ids(f"{message.role}\n"), *text.ids(message.content))
        if index < len(messages) - 1:
            ids = (*ids, turn_end, *text.ids("\n"))
        turns.append((ids, _trained(message, settings)))
    return _joined(turns, (end,), turns[-1][1], settings.max_seq_len)


def _trained(message: Message, settings: RowSettings) -> bool:
    return message.role == "assistant" or settings.trains_on_prompt is True


def _joined(turns: list[Turn], end: Ids, end_trained: bool, limit: int | None) -> TrainedRow:
    """Join the turns and the end token. With a limit the last token becomes the end token, with a masked label.

    That last mask is set whether or not anything was cut.
    """
    ids = tuple(token for turn, _ in turns for token in turn) + end
    labels = (*(trained for turn, trained in turns for _ in turn), end_trained)
    if limit is None:
        return TrainedRow(ids=ids, labels=labels, uncut=len(ids))
    return TrainedRow(ids=(*ids[:limit][:-1], *end), labels=(*labels[:limit][:-1], False), uncut=len(ids))


SAMPLER_SEED = 0
"""Fixed in the recipes: `StatefulDistributedSampler(..., seed=0)`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchtuneBatching:
    """torchtune's batching of one dataset; the datasets of a list are packed one by one."""

    planned_order: bool = False
    """Whether unpacked examples come in the planner's order, as in touchline's own runs, and not in the sampler's."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples. `settings.seed` is not used.

        Raises:
            ValueError: a size is not positive, or there is no example.
        """
        limit = settings.max_seq_len
        examples = _cut(*checked(lengths, settings, labels), limit)
        filled = next_fit(examples.tokens, limit) if settings.packed else one_each(len(examples.tokens))
        rows, micro, devices = filled.rows, settings.micro_batch_size, settings.data_parallel_size
        batches_each = -(-rows // devices) // micro
        steps = optimizer_steps(rows, settings.global_batch_size, devices=devices, drops_incomplete=True)
        used = min(steps * settings.gradient_accumulation_steps * micro * devices, rows)
        tokens, labels_of = filled.sums(examples.tokens), filled.sums(examples.labels)
        known = simulated_epochs(rows, settings.epochs)
        width = limit if settings.packed else None
        planned = planned_orders(np.zeros(rows, np.uint32), settings) if self.planned_order else []

        def of(order: NDArray[np.int64]) -> MicroBatches:
            return side_by_side(tokens, labels_of, order, micro, width=width)

        def order(epoch: int) -> NDArray[np.int64]:
            if not self.planned_order:
                return order_of(rows, settings, epoch)
            return (order_of(rows, settings, epoch) if settings.packed else planned[epoch])[:used]

        bound: MicroBatch | None = None
        if known < settings.epochs and batches_each:
            bound = of(np.argsort(-tokens, kind="stable")[:micro]).largest()
        return forecast(
            examples=examples,
            filled=filled,
            settings=settings,
            capacity=limit,
            epochs=(of(order(epoch)) for epoch in range(known)),
            bound=bound,
            steps=(steps * settings.epochs,) * 3,
            rows_left_over=rows - used,
            notes=_notes(examples, filled, settings, batches_each, steps, known, dropped=self.planned_order),
        )


def order_of(rows: int, settings: BatchSettings, epoch: int) -> NDArray[np.int64]:
    """Return the rows of an epoch's full micro-batches, with all devices in turn."""
    micro, devices = settings.micro_batch_size, settings.data_parallel_size
    each = -(-rows // devices)
    # torch's DistributedSampler: the first rows a second time so that all devices have as many; device r takes every
    # r-th.
    shuffled = np.resize(permutation(rows, SAMPLER_SEED + epoch), each * devices)
    whole = each // micro * micro
    by_device = shuffled.reshape(each, devices)[:whole].T
    return by_device.reshape(devices, whole // micro, micro).transpose(1, 0, 2).reshape(-1)


def _cut(lengths: NDArray[np.int64], labels: NDArray[np.int64], limit: int) -> Examples:
    """Apply torchtune's `truncate`: keep `limit` tokens, and replace the last by an end of text without loss."""
    examples = cut_at_end(lengths, labels, limit)
    return replace(examples, labels=np.maximum(examples.labels - (lengths > limit), 0))


def _notes(
    examples: Examples,
    filled: Filled,
    settings: BatchSettings,
    batches_each: int,
    steps: int,
    known: int,
    *,
    dropped: bool,
) -> list[str]:
    micro, accumulation = settings.micro_batch_size, settings.gradient_accumulation_steps
    row = "pack" if settings.packed else "example"
    notes = []
    if not steps:
        devices = "" if settings.data_parallel_size == 1 else f" on {settings.data_parallel_size} devices"
        notes.append(
            f"no optimizer step: {plural(filled.rows, row)}{devices} give {batches_each} full micro-batches of "
            f"{micro}, but a step needs {accumulation}"
        )
    unloaded = -(-filled.rows // settings.data_parallel_size) - batches_each * micro
    if unloaded:
        notes.append(
            f"the last {plural(unloaded, row)} per device and epoch not used, because the micro-batch would not be full"
        )
    waiting = batches_each - steps * accumulation
    if waiting and dropped:
        notes.append(f"the last {plural(waiting, 'micro-batch')} per epoch not used, because they do not fill a step")
    elif waiting:
        notes.append(
            f"the last {plural(waiting, 'micro-batch')} per epoch fill no step: their gradients are added to the "
            "next epoch's first step, and lost after the last"
        )
    if len(examples.truncated):
        notes.append(
            f"{plural(len(examples.truncated), 'example')} truncated at max_seq_len by the tokenizer without a "
            "message, with a last token that is end of text and not a label"
        )
    if examples.without_label:
        notes.append(f"{plural(examples.without_label, 'example')} without any label token")
    if known < settings.epochs:
        notes.append(f"the order was simulated for {known} of {settings.epochs} epochs (the largest is an upper bound)")
    return notes


BATCHING: Batching = TorchtuneBatching()
