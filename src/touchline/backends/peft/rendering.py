"""Our own trainer's rows: the prompt that evaluation shows, then the answer and its stop token, the labels."""

from __future__ import annotations

from touchline.backends.rendering import RowSettings, TrainedRow
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.rendering.text import ModelText


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
