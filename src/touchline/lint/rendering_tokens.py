"""Rules: every token shown is one of the model's, and no text of the data becomes a token that ends a turn."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.lint.rendering import RenderingView, unknown_markers
from touchline.lint.rule import Violation, rule


@rule("TK215", Severity.WARNING)
def special_token_in_data(view: RenderingView) -> Iterator[Violation]:
    """Report data that holds a special token of the model."""
    for found in view.special_in_data[:3]:
        counted = "1 row has" if found.rows == 1 else f"{found.rows:,} rows have"
        yield Violation(
            message=f"{counted} the special token {found.token!r} in the text of {found.role}, first {found.row};"
            " it is tokenised as that token, not as text",
            at=view.where_data,
            hint="take it out, or write it otherwise",
        )


@rule("TK216", Severity.ERROR)
def token_beyond_embedding(view: RenderingView) -> Iterator[Violation]:
    """Report token ids without a row in the embedding."""
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
            hint="take the model's own tokenizer, or resize its embedding",
        )


@rule("TK223", Severity.WARNING)
def split_marker(view: RenderingView) -> Iterator[Violation]:
    """Report a template's marker that is several tokens."""
    for row in view.rows:
        own = "".join(turn.content for turn in row.row.example.prompt) + row.row.example.answer
        unknown = unknown_markers(view, row.prompt_text + row.trained_text, own)
        if unknown:
            pieces = len(view.text.ids(unknown[0]))
            yield Violation(
                message=f"the template writes {', '.join(repr(marker) for marker in unknown[:4])}, no tokens of"
                f" {view.model}: {unknown[0]!r} becomes {pieces} tokens",
                at=view.at("template"),
                hint="the template of the model's own family",
            )
            return


_TOLD_CHARACTERS = 40


@rule("TK232", Severity.WARNING)
def dropped_turn(view: RenderingView) -> Iterator[Violation]:
    """Report turns that the template leaves out."""
    for row in view.rows:
        for turn in row.row.example.prompt:
            said = "".join(turn.content.split())
            if said and said.casefold() not in "".join(row.prompt_text.split()).casefold():
                yield Violation(
                    message=f"{row.name}: its {turn.role} turn {turn.content[:_TOLD_CHARACTERS]!r} is not in the prompt"
                    " that the template writes",
                    at=view.where_model,
                    subject="chat_template",
                )
                return
