"""Rendering of rows as token ids and labels by trainers: each backend's `rendering.py` holds `training_row`.

It is computed from a model's tokenizer and template alone, without the trainer. Unverified behavior is
`Missing(reason)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from touchline.core.quantity import Missing
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.text import Ids, ModelText


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
    """Tokens of a row at most."""
    trains_on_prompt: bool | None = None
    """Whether the prompt has a loss too. None means the trainer's default."""
    answers_only: bool = False
    """Whether only text that the template marks as the model's has a loss: `assistant_only_loss`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRow:
    """Rendered form of a row, as training shows it to the model."""

    ids: Ids
    """Tokens, after cutting."""
    labels: tuple[bool, ...]
    """Whether the loss is taken on each of them."""
    uncut: int
    """Tokens before cutting."""
    left_out: bool = False
    """Whether the trainer leaves such a row out."""
    refused: bool = False
    """Whether the trainer stops with an error at such a row."""

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
