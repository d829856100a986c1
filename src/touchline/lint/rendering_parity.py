"""Rules: training and evaluation must show a model the same prompt, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from touchline.backends.registry import traits_of
from touchline.backends.simulation import TrainedRow
from touchline.core.catalog import Message
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.lint.rendering import THINK, RenderingView, RowView, short
from touchline.lint.rule import Violation, rule


@rule("TK201", Severity.ERROR)
def _doubled_begin_token(view: RenderingView) -> Iterator[Violation]:
    begin = view.text.bos_id
    if begin is None:
        return
    for row in view.rows:
        sides = {"evaluation": row.prompt_ids}
        if not isinstance(row.trained, Missing):
            sides["training"] = row.trained.ids
        doubled = [name for name, ids in sides.items() if ids[:2] == (begin, begin)]
        if doubled:
            message = f"{row.name} begins with {view.text.tokens.bos!r} twice in {' and '.join(doubled)}"
            at = view.where_data if row.row.form == "text completion" else view.where_model
            yield Violation(message, at, "remove it from the data or from the template, since the other one adds it")
            return


@rule("TK202", Severity.WARNING)
def _prompt_mismatch(view: RenderingView) -> Iterator[Violation]:
    yield from _told(view, "other", "the prompts of training and evaluation differ", _SAME_TEMPLATE)
    yield from _told(view, "begin", "the begin token is on one side only", _SAME_TEMPLATE)


@rule("TK203", Severity.ERROR)
def _no_generation_prompt(view: RenderingView) -> Iterator[Violation]:
    header = _header_without_prompt(view)
    if header is not None:
        message = f"evaluation asks without {short(header)}, which the template writes before every answer"
        at = view.where_model
        yield Violation(message, at, "{% if add_generation_prompt %}" + header.replace("\n", "\\n") + "{% endif %}")
        return
    yield from _told(view, "generation", "the marker before the answer is on one side only", _SAME_TEMPLATE)


@rule("TK204", Severity.WARNING)
def _system_turn_mismatch(view: RenderingView) -> Iterator[Violation]:
    yield from _told(
        view,
        "system",
        "a system turn is on one side only",
        "add a system turn to every row, or train with the model's own template",
    )


@rule("TK205", Severity.WARNING)
def _thinking_block_mismatch(view: RenderingView) -> Iterator[Violation]:
    yield from _told(view, "thinking", "thoughts are on one side only", "set enable_thinking alike on both sides")
    if view.failed is not None and (block := _thoughts_of_template(view)) is not None:
        yield Violation(
            f"the template writes {short(block)} before an answer without thoughts, but not in the prompt of"
            " evaluation",
            view.where_model,
            "use a template without thoughts, or add thoughts to the answers of the data",
            severity=Severity.ERROR,
        )
        return
    for row in view.rows:
        parts = _answer_parts(row)
        if parts is None or THINK[0] in row.row.example.answer or difference(view, row) is not None:
            continue
        if THINK[0] in parts[0] and THINK[0] not in parts[1]:
            block = parts[0][parts[0].index(THINK[0]) :]
            message = f"{row.name}: the loss includes {short(block, 60)} before the answer, which is not in the data"
            at = view.at("template")
            yield Violation(message, at, "set enable_thinking: false, or use a template without thoughts")
            return


@rule("TK208", Severity.WARNING)
def _answer_merges_with_prompt(view: RenderingView) -> Iterator[Violation]:
    found = _found(view, "border")
    if found is not None:
        yield Violation(
            f"{found.row.name}: the prompt ends in {found.training} with the answer, in {found.evaluation}"
            f" without it (token {found.token})",
            view.where_data or view.where_model,
            "move the white space from the prompt's end to the answer's beginning",
        )


@rule("TK212", Severity.ERROR)
def _chats_without_template(view: RenderingView) -> Iterator[Violation]:
    if view.failed is not None and view.text.template is None:
        message = f"the data are chats, and {view.model} has no chat template, which {view.backend} needs"
        at = view.at("template")
        yield Violation(message, at, "use the instruct model of the same name, or rows of plain prompt and completion")


@rule("TK213", Severity.ERROR)
def _template_refuses_row(view: RenderingView) -> Iterator[Violation]:
    if view.failed is None:
        return
    message, refuses_system = view.failed
    if refuses_system:
        yield Violation(
            f"the data have a system turn, and the template of {view.model} refuses it: {message}",
            view.where_data or view.where_model,
            "put the system turn's text before the user's",
        )
    elif view.text.template is not None and not (_header_without_prompt(view) or _thoughts_of_template(view)):
        yield Violation(f"rows cannot be rendered for {view.model}: {message}", view.where_model)


@rule("TK220", Severity.INFO)
def _rendering_not_checked(view: RenderingView) -> Iterator[Violation]:
    if view.missing is not None:
        yield Violation(f"not checked ({view.missing}): training's prompts against those of evaluation")


_SAME_TEMPLATE = "train with the model's own chat template, or evaluate with that of the training"


def _found(view: RenderingView, kind: Kind) -> _PromptMismatch | None:
    found = (difference(view, row) for row in view.rows)
    return next((each for each in found if each is not None and each.kind == kind), None)


def _told(view: RenderingView, kind: Kind, what: str, hint: str) -> Iterator[Violation]:
    """Yield one violation for all rows, located at the first of them."""
    found = _found(view, kind)
    if found is not None:
        message = (
            f"{found.row.name}: {what} (from token {found.token}, training has {found.training}, evaluation"
            f" {found.evaluation})"
        )
        yield Violation(message, view.at("template"), hint, severity=None)


def _header_without_prompt(view: RenderingView) -> str | None:
    """Return what the model's template writes before an answer and leaves out of a prompt. None if nothing."""
    if view.text.template is None or view.asks_own_way or (view.rows and traits_of(view.backend).own_headers):
        return None
    asked = Message(role="user", content="\u2756")
    answer = Message(role="assistant", content="\u2766")
    try:
        prompt = view.text.render((asked,), generation=True)
        bare = view.text.render((asked,), generation=False)
        whole = view.text.render((asked, answer), generation=False)
    except ChatTemplateError:
        return None
    if prompt != bare or not whole.startswith(prompt):
        return None
    header = whole[len(prompt) :].partition(answer.content)[0]
    return header if header.strip() and THINK[0] not in header else None


def _thoughts_of_template(view: RenderingView) -> str | None:
    """Return the thinking block that the model's template puts between the prompt and an answer."""
    asked = Message(role="user", content="\u2756")
    answer = Message(role="assistant", content="\u2766")
    try:
        prompt = view.text.render((asked,), generation=True)
        whole = view.text.render((asked, answer), generation=False)
    except ChatTemplateError:
        return None
    before = whole.removeprefix(prompt).partition(answer.content)[0]
    return before if whole.startswith(prompt) and THINK[0] in before else None


Kind = Literal["begin", "system", "thinking", "generation", "border", "other"]
"""Kind of difference: begin token; system turn; reasoning block; answer marker; tokens merged across the
border; other."""

_WORDS = 12
"""Minimum number of characters before the user's turn that count as a system turn."""
_CONTEXT = 5
"""Number of tokens shown on both sides of a difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _PromptMismatch:
    kind: Kind
    row: RowView
    token: int
    """First token that differs, from 0."""
    training: str
    """Text of training at that token, quoted, with its context."""
    evaluation: str


def difference(view: RenderingView, row: RowView) -> _PromptMismatch | None:
    """Compare the two prompts. None if one is the beginning of the other, or nothing can be compared."""
    trained = row.trained
    if isinstance(trained, Missing):
        return None
    token = _first(trained, row)
    if token is None:
        return None
    return _PromptMismatch(
        kind=_kind(view, row),
        row=row,
        token=token,
        training=_around(view, trained.ids, token),
        evaluation=_around(view, row.prompt_ids, token),
    )


def _answer_parts(row: RowView) -> tuple[str, str] | None:
    """Return what training writes between the user's text and the answer, and what evaluation writes there."""
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
            # The last token of a truncated row may be the end token.
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
    parts = _answer_parts(row)
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
    shared = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(shorter))
    return longer.endswith(shorter[shared:])


def _around(view: RenderingView, ids: tuple[int, ...], token: int) -> str:
    return short(view.text.decode(ids[max(token - _CONTEXT, 0) : token + _CONTEXT + 1]))
