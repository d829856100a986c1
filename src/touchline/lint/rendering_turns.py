"""Rules on turns that a template takes and does not write."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.rendering import RenderingView
from touchline.lint.rule import Violation, rule

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
