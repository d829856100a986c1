"""axolotl's rows of `type: chat_template`: the answer's own tokens and the end token just after it are the labels.

A row that is longer than sequence_len is left out. Source: src/axolotl/prompt_strategies/chat_template.py,
utils/chat_templates (0.19.0), checked against them in tests/backends.
"""

from __future__ import annotations

from touchline.backends.rendering import RowSettings, TrainedRow
from touchline.core.catalog import Message
from touchline.core.quantity import Missing
from touchline.data.rendering.rows import ShownRow
from touchline.data.rendering.text import Ids, ModelText

_TURNS = "{% for m in messages %}"
_QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

TEMPLATES: dict[str, str] = {
    "chatml": (
        _TURNS + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        _TURNS + "{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "qwen_25": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n"
        + _QWEN_SYSTEM
        + "<|im_end|>\n' }}{% endif %}"
        + _TURNS
        + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + _TURNS
        + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
        "{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "phi_3": (
        "{{ bos_token }}" + _TURNS + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' if m.role != 'assistant' }}"
        "{% if m.role == 'user' %}{{ '<|assistant|>\n' }}{% elif m.role == 'assistant' %}"
        "{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    ),
}
"""The templates by name."""
OWN = ("tokenizer_default", "tokenizer_default_fallback_")
"""Names that mean the model's own template, the second with another one after it for models without."""


_OTHER = "\u2756"
_END_WITHIN = 3
"""The end token is looked for among so many tokens after the answer."""


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
    """Render a row by the chat_template strategy (`roles_to_train: [assistant]`, `train_on_eos: turn`).

    Raises:
        ChatTemplateError: the template refuses the chat, or there is none.
    """
    if row.media:
        return Missing(missing="rows with images need the model's processor, which is not simulated")
    if settings.dataset.partition(".")[0] not in ("", "chat_template"):
        return Missing(missing=f"the prompt format {settings.dataset!r} of axolotl is not supported here")
    template = _template(text, settings)
    if isinstance(template, Missing):
        return template
    turns = (*row.example.prompt, Message(role="assistant", content=row.example.answer))
    written = text.render(turns, generation=False, template=template)
    ids, places = text.ids_with_places(written)
    labels = [False] * len(ids)
    for index, turn in enumerate(turns):
        if turn.role != "assistant" and not settings.trains_on_prompt:
            continue
        span = _span(text, turns, index, template, written)
        if span is None:
            return Missing(missing="a turn is missing in the template's output")
        _train(labels, ids, [at for at, (first, last) in enumerate(places) if first < span[1] and last > span[0]], text)
    too_long = settings.max_seq_len is not None and len(ids) > settings.max_seq_len
    return TrainedRow(ids=ids, labels=tuple(labels), uncut=len(ids), left_out=too_long)


def _train(labels: list[bool], ids: Ids, tokens: list[int], text: ModelText) -> None:
    """Take the loss on a turn's own tokens, and on the end token just after them."""
    for at in tokens:
        labels[at] = True
    after = tokens[-1] + 1 if tokens else len(ids)
    end = text.id(text.tokens.eos)
    stop = next((at for at in range(after, min(after + _END_WITHIN + 1, len(ids))) if ids[at] == end), None)
    if stop is not None:
        labels[stop] = True


def _template(text: ModelText, settings: RowSettings) -> str | Missing | None:
    """Return the template's text, or None for the model's own template."""
    name = settings.template or OWN[0]
    if name == OWN[0] or (name.startswith(OWN[1]) and text.template is not None):
        return None
    name = name.removeprefix(OWN[1])
    if "{%" in name or "{{" in name:
        return name
    return TEMPLATES.get(name) or Missing(missing=f"axolotl's template {name!r} is not supported here")


def _span(
    text: ModelText, turns: tuple[Message, ...], index: int, template: str | None, written: str
) -> tuple[int, int] | None:
    """Return the character span of a turn's text: it begins where another text would differ."""
    other = Message(role=turns[index].role, content=_OTHER)
    place = text.render((*turns[:index], other, *turns[index + 1 :]), generation=False, template=template).find(_OTHER)
    content = turns[index].content
    for each in (content, content.strip()):
        if place >= 0 and written.startswith(each, place):
            return place, place + len(each)
    return None
