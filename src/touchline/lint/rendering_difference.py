"""Where the prompt that training shows and the one that evaluation shows part, and what kind of difference it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from touchline.backends.rendering import TrainedRow
from touchline.core.quantity import Missing
from touchline.lint.rendering import THINK, RenderingView, RowView, short

Kind = Literal["begin", "system", "thinking", "generation", "border", "other"]
"""The begin token; the system turn; a block of thoughts; the marker before the answer; tokens merged across the border
of prompt and answer; anything else."""

_WORDS = 12
"""Characters from which on a piece before the user's turn is taken for a system turn."""
_CONTEXT = 5
"""Tokens shown on both sides of a difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The first difference of a row."""

    kind: Kind
    """What it is."""
    row: RowView
    """The row."""
    token: int
    """The first token that differs, from 0."""
    training: str
    """What training has there, quoted, with what stands around it."""
    evaluation: str
    """What evaluation has there."""


def difference(view: RenderingView, row: RowView) -> Difference | None:
    """How the two prompts differ; None where one is the beginning of the other, or nothing can be compared."""
    trained = row.trained
    if isinstance(trained, Missing):
        return None
    token = _first(trained, row)
    if token is None:
        return None
    return Difference(
        kind=_kind(view, row),
        row=row,
        token=token,
        training=_around(view, trained.ids, token),
        evaluation=_around(view, row.prompt_ids, token),
    )


def answer_parts(row: RowView) -> tuple[str, str] | None:
    """What training writes between the user's text and the answer, and what evaluation writes after that text."""
    asked = row.row.example.prompt[-1].content.strip()
    at_training, at_evaluation = row.trained_text.find(asked), row.prompt_text.find(asked)
    if not asked or min(at_training, at_evaluation) < 0:
        return None
    rest = row.trained_text[at_training + len(asked) :]
    at_answer = rest.find(row.row.example.answer.strip())
    return None if at_answer < 0 else (rest[:at_answer], row.prompt_text[at_evaluation + len(asked) :])


def _first(trained: TrainedRow, row: RowView) -> int | None:
    for index, (shown, asked) in enumerate(zip(trained.ids, row.prompt_ids, strict=False)):
        if shown != asked:
            # The last token of a row that was cut may stand for the end.
            return None if index == len(trained.ids) - 1 and trained.uncut > len(trained.ids) else index
    return None


def _kind(view: RenderingView, row: RowView) -> Kind:
    asked = row.row.example.prompt[-1].content.strip()
    at_training, at_evaluation = row.trained_text.find(asked), row.prompt_text.find(asked)
    if row.trained_text.startswith(row.prompt_text):
        return "border"
    if not asked or min(at_training, at_evaluation) < 0:
        return "other"
    begin = view.text.tokens.bos or "\0"
    heads = [row.trained_text[:at_training], row.prompt_text[:at_evaluation]]
    if heads[0] != heads[1]:
        bare = [_without(head, begin) for head in heads]
        if bare[0] == bare[1]:
            return "begin"
        longer, shorter = sorted(bare, key=len, reverse=True)
        return "system" if len(longer) - len(shorter) >= _WORDS and _inside(shorter, longer) else "other"
    parts = answer_parts(row)
    if parts is None:
        return "other"
    if any(tag in part for part in parts for tag in THINK):
        return "thinking"
    return "generation" if parts[0].strip() and not parts[1].strip().endswith(parts[0].strip()) else "other"


def _without(text: str, begin: str) -> str:
    while text.startswith(begin):
        text = text.removeprefix(begin)
    return text


def _inside(shorter: str, longer: str) -> bool:
    """Whether a text is another one from which one piece was taken out."""
    shared = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(shorter))
    return longer.endswith(shorter[shared:])


def _around(view: RenderingView, ids: tuple[int, ...], token: int) -> str:
    return short(view.text.decode(ids[max(token - _CONTEXT, 0) : token + _CONTEXT + 1]))
