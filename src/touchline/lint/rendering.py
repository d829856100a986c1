"""Rendering of the same rows in training and in evaluation, and rules on its labels and special tokens.

Evaluation uses touchline's rendering: the model's own template up to the marker before the answer, without added
tokens. Training uses the rendering of the backend's own code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from touchline.backends.registry import traits_of
from touchline.backends.simulation import RowSettings, TrainedRow, TrainingRow
from touchline.core.catalog import IMAGE_PLACE, Message
from touchline.core.finding import Location, Severity
from touchline.core.quantity import Missing
from touchline.data.rendering.chat import images_of
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.rendering.text import Ids, ModelText, ShownRow
from touchline.experiment.partial import Stated, StatedTraining
from touchline.lint.rule import Violation, rule

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
    rows: tuple[RowView, ...] = ()
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


def rendered(view: RenderingView, rows: Sequence[tuple[str, ShownRow]], render: TrainingRow | Missing) -> RenderingView:
    """Return a view with rows rendered both ways, each with the reason why it was chosen."""
    if isinstance(render, Missing):
        return replace(view, missing=render.missing)
    text, settings = view.text, view.settings
    try:
        views = tuple(_row(text, which, row, render(text, row, settings), view.backend) for which, row in rows)
    except ChatTemplateError as fault:
        return replace(view, failed=(fault.message, _refuses_system(text, [row for _, row in rows])))
    missing = next((each.trained.missing for each in views if isinstance(each.trained, Missing)), None)
    return replace(view, rows=views, missing=missing)


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


_TAIL = 4
"""Number of last tokens with a loss that are searched for the end token. Templates write a line feed after it."""


@rule("TK206", Severity.ERROR)
def _stop_token_not_trained(view: RenderingView) -> Iterator[Violation]:
    for row, trained in _trained(view):
        ended = view.text.stop_ids & set(trained.trained_ids[-_TAIL:])
        if ended or _cut(trained) or not trained.trained_ids or _other_end(view, trained):
            continue
        stops = ", ".join(repr(view.text.name(stop)) for stop in sorted(view.text.stop_ids))
        masked = bool(view.text.stop_ids & set(trained.ids[-_TAIL:]))
        why = "its label is masked" if masked else "it is not written after the answer"
        message = f"{row.name}: the loss is computed on {short(row.label_text)} without {stops} ({why})"
        yield Violation(message, view.at("max_seq_len") if masked else view.at("template"), _stop_hint(view, masked))
        return


@rule("TK207", Severity.WARNING)
def _answer_truncated(view: RenderingView) -> Iterator[Violation]:
    for row, trained in reversed(_trained(view)):
        limit = view.settings.max_seq_len
        if limit is None or trained.uncut <= limit:
            continue
        happens = "its answer is truncated"
        if trained.refused:
            happens = "the run stops there"
        elif trained.left_out:
            happens = "the row is left out"
        message = f"{row.name} has {trained.uncut:,} tokens, but max_seq_len is {limit}, so {happens}"
        hint = f"set max_seq_len to the longest row, {trained.uncut} tokens or more"
        severity = Severity.ERROR if trained.refused or row.which == "shortest" else None
        yield Violation(message, view.at("max_seq_len"), hint, severity=severity)
        return


@rule("TK209", Severity.ERROR)
def _no_label_tokens(view: RenderingView) -> Iterator[Violation]:
    for row, trained in _trained(view):
        limit = view.settings.max_seq_len
        too_long = limit is not None and trained.uncut > limit and (trained.left_out or trained.refused)
        if too_long or row.label_text.strip():
            continue
        yield Violation(
            f"{row.name}: none of its {len(trained.ids)} tokens has a loss, expected the answer"
            f" {short(row.row.example.answer, 60)}",
            view.at("max_seq_len") if _cut(trained) else view.at("template"),
        )
        return


@rule("TK219", Severity.INFO)
def _label_span(view: RenderingView) -> Iterator[Violation]:
    for row, trained in _trained(view)[:1]:
        system = next((turn.content for turn in row.row.example.prompt if turn.role == "system"), None)
        head = row.prompt_text.partition(row.row.example.prompt[-1].content)[0]
        own = "given" if system is not None else "by the template" if len(head.split()) > _TAIL else "absent"
        yield Violation(
            f"{row.name}: {view.backend} computes the loss on {short(row.label_text, 100)},"
            f" {sum(trained.labels)} of {len(trained.ids)} tokens (system turn {own})"
        )


@rule("TK221", Severity.WARNING)
def _evaluation_stop_mismatch(view: RenderingView) -> Iterator[Violation]:
    for row, trained in _trained(view):
        other = _other_end(view, trained)
        if other is None or _cut(trained):
            continue
        stops = ", ".join(repr(view.text.name(stop)) for stop in sorted(view.text.stop_ids))
        message = f"{row.name}: the trained answer ends in {other!r}, but evaluation stops only at {stops}"
        hint = f"set eos_token: {other} in tokenizer_config.json, or its id in generation_config.json"
        yield Violation(message, view.where_model, hint)
        return


def _trained(view: RenderingView) -> list[tuple[RowView, TrainedRow]]:
    return [(row, row.trained) for row in view.rows if not isinstance(row.trained, Missing)]


def _cut(trained: TrainedRow) -> bool:
    return trained.uncut > len(trained.ids)


def _other_end(view: RenderingView, trained: TrainedRow) -> str | None:
    """Return a special token after the answer at which evaluation does not stop."""
    tail = trained.trained_ids[-_TAIL:]
    if view.text.stop_ids & set(tail):
        return None
    special = {number: token for token, number in view.text.special.items()}
    return next((special[token] for token in reversed(tail[1:]) if token in special), None)


def _stop_hint(view: RenderingView, masked: bool) -> str:
    if masked:
        return (
            traits_of(view.backend).masked_end_hint
            or "use a trainer or template that computes the loss on the end of the turn"
        )
    return "use a template that closes the answer's turn"


@rule("TK215", Severity.WARNING)
def _special_token_in_data(view: RenderingView) -> Iterator[Violation]:
    for found in view.special_in_data[:3]:
        counted = "1 row has" if found.rows == 1 else f"{found.rows:,} rows have"
        message = f"{counted} the special token {found.token!r} in the text of {found.role}, first {found.row}"
        yield Violation(message, view.where_data, "remove it, or write it in another form")


@rule("TK216", Severity.ERROR)
def _token_beyond_embedding(view: RenderingView) -> Iterator[Violation]:
    if view.embedding_rows is None:
        return
    shown = {token for row in view.rows for token in row.prompt_ids}
    shown |= {token for row in view.rows if not isinstance(row.trained, Missing) for token in row.trained.ids}
    names = view.text.tokens
    special = {token: view.text.id(token) for token in (names.pad, names.bos, names.eos) if token is not None}
    # A named but unknown token is appended to the vocabulary when the tokenizer is loaded.
    ids = {token: view.text.highest + 1 if found is None else found for token, found in special.items()}
    ids |= {view.text.name(token) or str(token): token for token in shown}
    beyond = sorted((number, token) for token, number in ids.items() if number >= view.embedding_rows)
    if beyond:
        listed = ", ".join(f"{token!r} ({number})" for number, token in beyond[:3])
        yield Violation(
            f"tokens beyond the {view.embedding_rows:,} rows of the embedding: {listed}"
            f"{f' and {len(beyond) - 3} more' if len(beyond) > 3 else ''}",
            view.where_model,
            "use the model's own tokenizer, or resize its embedding",
        )


_TOLD_CHARACTERS = 40


@rule("TK232", Severity.WARNING)
def _dropped_turn(view: RenderingView) -> Iterator[Violation]:
    for row in view.rows:
        for turn in row.row.example.prompt:
            # Images stand as tokens of their own between the texts.
            texts = turn.content.split(IMAGE_PLACE) if turn.images else [turn.content]
            written = "".join(row.prompt_text.split()).casefold()
            if any("".join(text.split()).casefold() not in written for text in texts):
                yield Violation(
                    f"{row.name}: the template leaves out its {turn.role} turn {turn.content[:_TOLD_CHARACTERS]!r}",
                    view.where_model,
                    subject="chat_template",
                )
                return
