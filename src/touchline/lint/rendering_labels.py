"""Rules on labels and special tokens of a rendering: loss, stop token, truncation, begin tokens, markers."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.registry import traits_of
from touchline.backends.rendering import TrainedRow
from touchline.core.catalog import IMAGE_PLACE
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.lint.rendering import RenderingView, RowView, short
from touchline.lint.rule import Violation, rule

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
        yield Violation(
            message=f"{row.name}: the loss is computed on {short(row.label_text)} without {stops} ({why})",
            at=view.at("max_seq_len") if masked else view.at("template"),
            hint=_stop_hint(view, masked),
        )
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
        yield Violation(
            message=f"{row.name} has {trained.uncut:,} tokens, but max_seq_len is {limit}, so {happens}",
            at=view.at("max_seq_len"),
            hint=f"set max_seq_len to the longest row, {trained.uncut} tokens or more",
            severity=Severity.ERROR if trained.refused or row.which == "shortest" else None,
        )
        return


@rule("TK209", Severity.ERROR)
def _no_label_tokens(view: RenderingView) -> Iterator[Violation]:
    for row, trained in _trained(view):
        limit = view.settings.max_seq_len
        too_long = limit is not None and trained.uncut > limit and (trained.left_out or trained.refused)
        if too_long or row.label_text.strip():
            continue
        yield Violation(
            message=f"{row.name}: none of its {len(trained.ids)} tokens has a loss, expected the answer"
            f" {short(row.row.example.answer, 60)}",
            at=view.at("max_seq_len") if _cut(trained) else view.at("template"),
        )
        return


@rule("TK219", Severity.INFO)
def _label_span(view: RenderingView) -> Iterator[Violation]:
    for row, trained in _trained(view)[:1]:
        system = next((turn.content for turn in row.row.example.prompt if turn.role == "system"), None)
        head = row.prompt_text.partition(row.row.example.prompt[-1].content)[0]
        own = "given" if system is not None else "by the template" if len(head.split()) > _TAIL else "absent"
        yield Violation(
            message=f"{row.name}: {view.backend} computes the loss on {short(row.label_text, 100)},"
            f" {sum(trained.labels)} of {len(trained.ids)} tokens (system turn {own})",
        )


@rule("TK221", Severity.WARNING)
def _evaluation_stop_mismatch(view: RenderingView) -> Iterator[Violation]:
    for row, trained in _trained(view):
        other = _other_end(view, trained)
        if other is None or _cut(trained):
            continue
        stops = ", ".join(repr(view.text.name(stop)) for stop in sorted(view.text.stop_ids))
        yield Violation(
            message=f"{row.name}: the trained answer ends in {other!r}, but evaluation stops only at {stops}",
            at=view.where_model,
            hint=f"set eos_token: {other} in tokenizer_config.json, or its id in generation_config.json",
        )
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
        yield Violation(
            message=f"{counted} the special token {found.token!r} in the text of {found.role}, first {found.row}",
            at=view.where_data,
            hint="remove it, or write it in another form",
        )


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
            message=f"tokens beyond the {view.embedding_rows:,} rows of the embedding: {listed}"
            f"{f' and {len(beyond) - 3} more' if len(beyond) > 3 else ''}",
            at=view.where_model,
            hint="use the model's own tokenizer, or resize its embedding",
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
                    message=f"{row.name}: the template leaves out its {turn.role} turn"
                    f" {turn.content[:_TOLD_CHARACTERS]!r}",
                    at=view.where_model,
                    subject="chat_template",
                )
                return
