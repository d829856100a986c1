"""TRL's rows: a chat by the model's template, or two texts with the end token; labels are the completion or all.

Source: trl/trainer/sft_trainer.py 1.16 (`_prepare_dataset`), checked against it in tests/backends.
"""

from __future__ import annotations

from touchline.backends.rendering import RowSettings, TrainedRow, cut
from touchline.core.catalog import Message
from touchline.core.quantity import Missing
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.text import Ids, ModelText


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
