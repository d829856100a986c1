"""Rows of a hand-written QLoRA stage script: the answer is found by the marker before it, after the row was cut.

A row whose marker was cut off keeps its labels everywhere, so the loss is taken on the prompt.
Source: reference facts on that script; it was not run here.
"""

from __future__ import annotations

from touchline.backends.rendering import RowSettings, TrainedRow
from touchline.core.catalog import Message
from touchline.core.quantity import Missing
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.text import ModelText


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
    """Render a row by the script: the model's template, cut at max_seq_len, labels after `<|im_start|>assistant`.

    Raises:
        ChatTemplateError: the template refuses the chat, or there is none.
    """
    if row.media:
        return Missing(missing="rows with pictures hold tokens of the picture, which are not counted here")
    turns = (*row.example.prompt, Message(role="assistant", content=row.example.answer))
    whole = text.ids(text.render(turns, generation=False))
    ids = whole[: settings.max_seq_len]
    marker = text.ids("<|im_start|>assistant\n")
    starts = [at + len(marker) for at in range(len(ids)) if ids[at : at + len(marker)] == marker]
    first = starts[-1] if starts else 0
    return TrainedRow(
        ids=ids,
        labels=tuple(index >= first for index in range(len(ids))),
        uncut=len(whole),
        marker_lost=not starts,
    )
