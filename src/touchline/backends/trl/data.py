"""Rows and batches of TRL's SFTTrainer (1.16, on transformers 5.23).

Read in trl/data_utils.py and trl/trainer/sft_trainer.py. Its issue 346 advises against packing 100 to 1,000 examples.

With packing (`packing=True`, strategy `bfd`), `datasets.map` passes 1000 examples at a time to the packer. They are cut
to `max_length` and put longest first into the fullest pack. Packing is padding-free: the packs of a micro-batch are
concatenated in a single row without padding. Without packing, examples are cut to `max_length`, those without a label
are dropped, and a micro-batch is padded to its longest example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.backends.hf_loop import hf_forecast
from touchline.backends.simulation import RowSettings, TrainedRow, checked, cut, cut_at_end, keep, planned_orders
from touchline.core.catalog import Message
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import batch_edges, best_fit_decreasing, one_each
from touchline.data.rendering.text import Ids, ModelText, ShownRow


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
    """Render a row by SFTTrainer. A row without a label after truncation is left out.

    Raises:
        ChatTemplateError: the template refuses the chat, or there is none.
    """
    if row.media:
        return Missing(missing="rows with images need the model's processor, which is not simulated")
    if settings.template:
        return Missing(missing=f"the template {settings.template!r} replaces the model's template and was not read")
    if row.form == "instruction":
        return Missing(missing="a formatting function (code) joins the columns")
    if row.form == "messages":
        made = _whole_chat(text, row, settings)
    elif row.form == "chat completion":
        prompt = text.ids(text.render(row.example.prompt, generation=True))
        made = _completion(prompt, text.ids(text.render(_turns(row), generation=False)), settings)
    else:
        asked = "".join(message.content for message in row.example.prompt)
        end = text.tokens.eos or ""
        answer = row.example.answer if row.example.answer.endswith(end) else row.example.answer + end
        prompt = text.ids(asked, special_tokens=True)
        made = _completion(prompt, text.ids(asked + answer, special_tokens=True), settings)
    if isinstance(made, Missing):
        return made
    cut_row = cut(*made, settings.max_seq_len)
    if any(cut_row.labels):
        return cut_row
    return TrainedRow(ids=cut_row.ids, labels=cut_row.labels, uncut=cut_row.uncut, left_out=True)


def _completion(prompt: Ids, whole: Ids, settings: RowSettings) -> tuple[Ids, tuple[bool, ...]]:
    """Return the start of the completion, where the two texts part. It is not always the prompt's end."""
    shared = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    everywhere = settings.trains_on_prompt is True
    return whole, tuple(everywhere or index >= shared for index in range(len(whole)))


def _whole_chat(text: ModelText, row: ShownRow, settings: RowSettings) -> tuple[Ids, tuple[bool, ...]] | Missing:
    """Render a chat in one column. All of it has a loss, unless `assistant_only_loss` limits it to marked answers."""
    if not settings.answers_only:
        ids = text.ids(text.render(_turns(row), generation=False))
        return ids, (True,) * len(ids)
    if not text.marks_answers:
        return Missing(missing="TRL may use its own training template for this model")
    written, spans = text.answers(_turns(row))
    ids, places = text.ids_with_places(written)
    return ids, tuple(
        any(start < end and start < last and first < end for first, last in spans) for start, end in places
    )


def _turns(row: ShownRow) -> tuple[Message, ...]:
    return (*row.example.prompt, Message(role="assistant", content=row.example.answer))


MAP_BATCH = 1000
"""Examples that `datasets.Dataset.map` hands over at once unless another number is set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrlBatching:
    """TRL's batching, with the options that change it."""

    map_batch: int | None = MAP_BATCH
    """Examples that are packed together; none: all of them, which TRL does only for who calls `pack_dataset` so."""
    num_proc: int | None = None
    """`dataset_num_proc`: processes that pack a share of the examples each."""
    pad_to_multiple_of: int = 1
    """Multiple to which the width of a micro-batch is rounded up."""
    planned_order: bool = False
    """Whether unpacked examples come in the planner's order, as in touchline's own runs, and not in the trainer's."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples. `settings.seed` is `SFTConfig.seed`.

        Raises:
            ValueError: a size is not positive, or there is no example.
        """
        examples = cut_at_end(*checked(lengths, settings, labels), settings.max_seq_len)
        notes = []
        if settings.packed:
            edges = batch_edges(len(examples.kept), self.map_batch, self.num_proc)
            filled = best_fit_decreasing(examples.tokens, settings.max_seq_len, edges)
            if len(edges) > 2:
                together = self.map_batch or "a process's"
                notes.append(f"examples are packed {together} at a time, in {len(edges) - 1} batches of `datasets.map`")
        else:
            examples = keep(examples, examples.labels > 0)
            filled = one_each(len(examples.kept))
            if len(examples.dropped):
                dropped = plural(len(examples.dropped), "example")
                notes.append(f"{dropped} not used: no label token in the first {settings.max_seq_len}")
        return hf_forecast(
            examples=examples,
            filled=filled,
            settings=settings,
            capacity=settings.max_seq_len,
            multiple=self.pad_to_multiple_of,
            flatten=settings.packed,
            notes=notes,
            orders=planned_orders(lengths, settings) if self.planned_order and not settings.packed else None,
        )


BATCHING: Batching = TrlBatching()
