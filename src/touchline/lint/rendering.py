"""Rendering of the same rows in training and in evaluation, side by side.

Evaluation uses touchline's rendering: the model's own template up to the marker before the answer, without added
tokens. Training uses the rendering of the backend's own code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from touchline.backends.registry import traits_of
from touchline.backends.rendering import RowSettings, TrainedRow, TrainingRow
from touchline.core.catalog import Message
from touchline.core.finding import Location
from touchline.core.quantity import Missing
from touchline.data.rendering.chat import images_of
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.rendering.text import Ids, ModelText
from touchline.experiment.partial import Stated, StatedTraining

THINK = ("<think>", "</think>")
"""Tags around a model's reasoning."""
SHOWN_CHARACTERS = 160
"""Maximum characters of a text in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowView:
    """Row in both renderings."""

    which: str
    """Kind of row: `shortest`, `middle`, `longest`."""
    row: ShownRow
    prompt_ids: Ids
    prompt_text: str
    trained: TrainedRow | Missing
    trained_text: str
    """Text in training, special tokens kept; empty if it is missing."""
    label_text: str
    """Text with a loss."""

    @property
    def name(self) -> str:
        """Return the name of the row, for messages."""
        return self.row.example.id


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialInData:
    """Special token in a row's text."""

    row: str
    token: str
    role: str
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RenderingView:
    """Combination of a model, a dataset and a trainer."""

    backend: str
    model: str
    text: ModelText
    rows: tuple[RowView, ...]
    """Rendered rows; empty if rendering failed."""
    settings: RowSettings
    failed: tuple[str, bool] | None = None
    """Reason why rendering failed, and whether the template refuses a system turn."""
    missing: str | None = None
    special_in_data: tuple[SpecialInData, ...] = ()
    embedding_rows: int | None = None
    """Rows of the embedding, `vocab_size` of config.json."""
    where_model: Location
    where_data: Location | None = None
    stated: StatedTraining | None = None

    def at(self, key: Literal["max_seq_len", "template", "trains_on_prompt"]) -> Stated[object] | Location:
        """Return the location of a setting, else of the config or the model."""
        if self.stated is None:
            return self.where_model
        found: Stated[object] | None = getattr(self.stated, key)
        return found or self.stated.where

    @property
    def asks_own_way(self) -> bool:
        """Return True if rows are plain texts that training uses unchanged. Then evaluation does so too."""
        return any(_is_plain(self.backend, view.row) for view in self.rows)


def rendering_view(
    text: ModelText,
    rows: Sequence[tuple[str, ShownRow]],
    settings: RowSettings,
    render: TrainingRow | Missing,
    *,
    backend: str,
    model: str,
    where_model: Location,
    where_data: Location | None = None,
    embedding_rows: int | None = None,
    special_in_data: tuple[SpecialInData, ...] = (),
    stated: StatedTraining | None = None,
) -> RenderingView:
    """Render the rows both ways."""
    views: tuple[RowView, ...] = ()
    failed: tuple[str, bool] | None = None
    missing = render.missing if isinstance(render, Missing) else None
    try:
        if not isinstance(render, Missing):
            views = tuple(_row(text, which, row, render(text, row, settings), backend) for which, row in rows)
            missing = next((view.trained.missing for view in views if isinstance(view.trained, Missing)), None)
    except ChatTemplateError as fault:
        failed = (fault.message, _refuses_system(text, [row for _, row in rows]))
    return RenderingView(
        backend=backend,
        model=model,
        text=text,
        rows=views,
        settings=settings,
        failed=failed,
        missing=missing,
        special_in_data=special_in_data,
        embedding_rows=embedding_rows,
        where_model=where_model,
        where_data=where_data,
        stated=stated,
    )


def special_tokens_in(text: ModelText, rows: Sequence[ShownRow]) -> tuple[SpecialInData, ...]:
    """Find special tokens in the rows' own texts, each with the first row that has it."""
    harmful = sorted((token for token in text.special if _ends_or_begins(token)), key=len, reverse=True)
    if not harmful:
        return ()
    pattern = re.compile("|".join(re.escape(token) for token in harmful))
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for shown in rows:
        example = shown.example
        turns = (*example.prompt, Message(role="assistant", content=example.answer))
        for key in dict.fromkeys((token, turn.role) for turn in turns for token in pattern.findall(turn.content)):
            first, count = found.get(key, (example.id, 0))
            found[key] = (first, count + 1)
    return tuple(
        SpecialInData(row=first, token=token, role=role, rows=count) for (token, role), (first, count) in found.items()
    )


def short(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Quote a text for a message. Omit the middle of a long one."""
    if len(text) > limit:
        half = (limit - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return repr(text)


def _ends_or_begins(token: str) -> bool:
    """Return True if a special token in a text is harmful. Placeholders of images and audio are intended."""
    bare = token.lower()
    return not any(
        word in bare for word in ("image", "video", "audio", "vision", "tool", "think", "mask", "unk", "img")
    )


def _is_plain(backend: str, row: ShownRow) -> bool:
    return traits_of(backend).plain_rows and row.form == "text completion"


def _row(text: ModelText, which: str, row: ShownRow, trained: TrainedRow | Missing, backend: str) -> RowView:
    if _is_plain(backend, row):
        ids = text.ids("".join(message.content for message in row.example.prompt), special_tokens=True)
    elif text.template is None:
        # A model without a template gets plain text, as in touchline's renderer.
        ids = text.renderer.prompt_ids(row.example.prompt)
    else:
        ids = text.ids(text.render(row.example.prompt, generation=True))
        if images := images_of(row.example.prompt):
            ids = text.renderer.with_image_tokens(ids, images, f"example {row.example.id}")
    shown, labelled = ((), ()) if isinstance(trained, Missing) else (trained.ids, trained.trained_ids)
    return RowView(
        which=which,
        row=row,
        prompt_ids=ids,
        prompt_text=text.decode(ids),
        trained=trained,
        trained_text=text.decode(shown),
        label_text=text.decode(labelled),
    )


def _refuses_system(text: ModelText, rows: Sequence[ShownRow]) -> bool:
    for row in rows:
        prompt = row.example.prompt
        if prompt[0].role != "system" or text.template is None:
            continue
        try:
            text.render(prompt, generation=True)
        except ChatTemplateError:
            try:
                text.render(prompt[1:], generation=True)
            except ChatTemplateError:
                continue
            return True
    return False
