"""torchtune's rows: tokens that its own tokenizers put around each turn, the answer's header among the labels.

A dataset's turns never meet the model's chat template: each family of tokenizers has its way.
Source: torchtune/models/llama3/_tokenizer.py, qwen2/_tokenizer.py, qwen2_5/_tokenizer.py, data/_utils.truncate (0.6.1),
checked against them in tests/backends.
"""

from __future__ import annotations

from touchline.backends.rendering import RowSettings, TrainedRow
from touchline.core.catalog import Message
from touchline.core.quantity import Missing
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.text import Ids, ModelText

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
