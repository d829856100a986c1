"""Rendering of LLaMA-Factory's rows: pieces of a named template around the turns, each tokenized separately. The last
turn is the label.

Source: data/template.py (`_encode`, `ReasoningTemplate`) and data/processor/supervised.py (0.9.5), checked against them
in tests/backends.
"""

from __future__ import annotations

from touchline.backends.llamafactory.templates import BOS, EOS, HERE, TEMPLATES, Slots, Slotted
from touchline.backends.rendering import RowSettings, TrainedRow
from touchline.core.catalog import Message
from touchline.core.quantity import Missing
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.text import Ids, ModelText

_NO_THOUGHT = "<think>\n\n</think>\n\n"


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
    """Render a row by the supervised stage. Return Missing for an unknown template."""
    if row.media:
        return Missing(missing="rows with pictures go through a plugin of the model's own")
    if not settings.template:
        return Missing(missing="without `template` LLaMA-Factory takes the pieces from the model's own by guessing")
    template = TEMPLATES.get(settings.template)
    if template is None:
        return Missing(missing=f"the template {settings.template!r} of LLaMA-Factory is not known here")
    pairs = _pairs(text, row, template)
    if isinstance(pairs, Missing):
        return pairs
    return _row(pairs, settings)


def _pairs(text: ModelText, row: ShownRow, template: Slotted) -> list[tuple[Ids, Ids]] | Missing:
    """Return prompt and answer of each round, as token ids."""
    system, turns = _turns(row, template)
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        return Missing(missing="the turns do not alternate")
    pairs: list[tuple[Ids, Ids]] = []
    for index in range(0, len(turns), 2):
        asked, answer = turns[index].content, turns[index + 1].content
        opening = _ids(text, template.prefix, "", template) if index == 0 else ()
        before = template.system[0].replace(HERE, system, 1) if index == 0 and system else ""
        if before and template.system_in_user:
            asked = before + asked
        elif before:
            opening += _ids(text, template.system, system, template)
        prompt = opening + _ids(text, template.user, asked, template)
        reply = _ids(text, template.answer, answer, template)
        if template.thinks and "<think>" not in answer:
            reply = text.ids(_NO_THOUGHT) + reply
        pairs.append((prompt, reply))
    return pairs


def _turns(row: ShownRow, template: Slotted) -> tuple[str, list[Message]]:
    messages = [*row.example.prompt, Message(role="assistant", content=row.example.answer)]
    given = messages.pop(0).content if messages[0].role == "system" else ""
    return given or template.default_system, messages


def _row(pairs: list[tuple[Ids, Ids]], settings: RowSettings) -> TrainedRow:
    """Append rounds until the limit. Shorten both sides of a long round in proportion."""
    limit = settings.max_seq_len
    ids: Ids = ()
    labels: tuple[bool, ...] = ()
    total = 0
    for whole_prompt, whole_reply in pairs:
        kept, answered = len(whole_prompt), len(whole_reply)
        if limit is not None:
            if total >= limit:
                break
            kept, answered = _shortened(kept, answered, limit - total)
        prompt, reply = whole_prompt[:kept], whole_reply[:answered]
        total += len(prompt) + len(reply)
        shown = [settings.trains_on_prompt is True] * len(prompt)
        ids += prompt + reply
        labels += (*shown, *(True,) * len(reply))
    uncut = sum(len(prompt) + len(reply) for prompt, reply in pairs)
    return TrainedRow(ids=ids, labels=labels, uncut=uncut)


def _shortened(prompt: int, answer: int, room: int) -> tuple[int, int]:
    """Return the tokens that are kept of a prompt and its answer (`infer_seqlen`)."""
    if answer * 2 < room:
        most = room
    elif prompt * 2 < room:
        most = room - prompt
    else:
        most = int(room * (answer / (prompt + answer)))
    answered = min(most, answer)
    return min(max(room - answered, 0), prompt), answered


def _ids(text: ModelText, slots: Slots, content: str, template: Slotted) -> Ids:
    ids: Ids = ()
    for slot in slots:
        if slot == BOS:
            ids += () if text.bos_id is None else (text.bos_id,)
        elif slot == EOS:
            end = _end(text, template)
            ids += () if end is None else (end,)
        elif written := slot.replace(HERE, content, 1):
            ids += text.ids(written)
    return ids


def _end(text: ModelText, template: Slotted) -> int | None:
    return text.id(template.stop_words[0] if template.replaces_eos else text.tokens.eos)
