"""LLaMA-Factory's (0.9.5) rows and its batching of a dataset.

Pieces of a named template stand around the turns, each tokenized separately; the last turn is the label. Source:
data/template.py (`_encode`, `ReasoningTemplate`), checked against it in tests/backends.

Read in data/processor/{processor_utils,supervised}.py, hparams/data_args.py and train/sft/workflow.py.

Examples are cut to `cutoff_len`, starting with the longer of prompt and answer. With packing, each pack is filled with
the longest examples that fit, in groups of 1000. A pack may hold one token less than `cutoff_len`, and is padded to
`cutoff_len`. In both cases widths are rounded up to a multiple of 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from touchline.backends.hf_loop import hf_forecast
from touchline.backends.simulation import Examples, RowSettings, TrainedRow, checked
from touchline.core.catalog import Message
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import batch_edges, first_fit_decreasing, one_each
from touchline.data.rendering.text import Ids, ModelText, ShownRow

BOS = "\0bos"
"""Stands for the tokenizer's begin token."""
EOS = "\0eos"
"""Stands for the tokenizer's end token."""
HERE = "{{content}}"

Slots = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slotted:
    """A template as pieces of text."""

    user: Slots = (HERE,)
    answer: Slots = (HERE, EOS)
    """The answer, with what ends it; this is what the loss is taken on."""
    system: Slots = (HERE,)
    prefix: Slots = ()
    """Beginning of a row."""
    default_system: str = ""
    stop_words: Slots = ()
    """Tokens that are made special; the first takes the end token's place where `replaces_eos` says so."""
    replaces_eos: bool = False
    system_in_user: bool = False
    """Whether the system turn is put before the user's text, inside that turn."""
    thinks: bool = field(default=False)
    """Whether an empty block of thoughts is put before an answer that has none."""


def _chatml(**changes: object) -> Slotted:
    parts: dict[str, object] = {
        "user": ("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n",),
        "answer": ("{{content}}<|im_end|>\n",),
        "system": ("<|im_start|>system\n{{content}}<|im_end|>\n",),
        "stop_words": ("<|im_end|>",),
        "replaces_eos": True,
    }
    return Slotted(**(parts | changes))  # type: ignore[arg-type]


TEMPLATES: dict[str, Slotted] = {
    "empty": Slotted(answer=(HERE,)),
    "default": Slotted(
        user=("Human: {{content}}", EOS, "\nAssistant:"),
        answer=(HERE, EOS, "\n"),
        system=("System: {{content}}", EOS, "\n"),
    ),
    "alpaca": Slotted(
        user=("### Instruction:\n{{content}}\n\n### Response:\n",),
        answer=(HERE, EOS, "\n\n"),
        default_system=(
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
        ),
    ),
    "chatml": _chatml(stop_words=("<|im_end|>", "<|im_start|>")),
    "qwen": _chatml(default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "qwen3": _chatml(thinks=True),
    "qwen3_nothink": _chatml(),
    "llama3": Slotted(
        user=(
            "<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        answer=("{{content}}<|eot_id|>",),
        system=("<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>",),
        prefix=(BOS,),
        stop_words=("<|eot_id|>", "<|eom_id|>"),
        replaces_eos=True,
    ),
    "llama2": Slotted(
        user=(BOS, "[INST] {{content}} [/INST]"), system=("<<SYS>>\n{{content}}\n<</SYS>>\n\n",), system_in_user=True
    ),
    "mistral": Slotted(
        user=("[INST] {{content}}[/INST]",),
        answer=(" {{content}}", EOS),
        system=("{{content}}\n\n",),
        prefix=(BOS,),
        system_in_user=True,
    ),
    "gemma": Slotted(
        user=("<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n",),
        answer=("{{content}}<end_of_turn>\n",),
        system=("{{content}}\n\n",),
        prefix=(BOS,),
        stop_words=("<end_of_turn>",),
        replaces_eos=True,
        system_in_user=True,
    ),
}


_NO_THOUGHT = "<think>\n\n</think>\n\n"


def training_row(text: ModelText, row: ShownRow, settings: RowSettings) -> TrainedRow | Missing:
    """Render a row by the supervised stage. Return Missing for an unknown template."""
    if row.media:
        return Missing(missing="rows with images need the model's plugin, which is not simulated")
    if not settings.template:
        return Missing(missing="without `template` LLaMA-Factory guesses the parts from the model's template")
    template = TEMPLATES.get(settings.template)
    if template is None:
        return Missing(missing=f"the template {settings.template!r} of LLaMA-Factory is not supported here")
    pairs = _pairs(text, row, template)
    if isinstance(pairs, Missing):
        return pairs
    return _row(pairs, settings)


def _pairs(text: ModelText, row: ShownRow, template: Slotted) -> list[tuple[Ids, Ids]] | Missing:
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
            end = text.id(template.stop_words[0] if template.replaces_eos else text.tokens.eos)
            ids += () if end is None else (end,)
        elif written := slot.replace(HERE, content, 1):
            ids += text.ids(written)
    return ids


PAD_TO_MULTIPLE_OF = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaFactoryBatching:
    """LLaMA-Factory's batching, with the options that change it."""

    preprocessing_batch_size: int = 1000
    preprocessing_num_workers: int | None = None
    """Processes that pack a share of the examples each."""

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        """Simulate the batches of these examples, each with one prompt and one answer.

        Args:
            lengths: tokens of each example, shape [examples].
            settings: the settings; `max_seq_len` is `cutoff_len`, at least 2 where packed.
            labels: of these, the answer's; none: all of them.

        Raises:
            ValueError: a size is not positive, or there is no example.
        """
        total, answers = checked(lengths, settings, labels)
        cutoff = settings.max_seq_len
        if not settings.packed:
            examples = shortened(total - answers, answers, cutoff)
            filled = one_each(len(total))
            return hf_forecast(
                examples=examples,
                filled=filled,
                settings=settings,
                capacity=cutoff,
                multiple=PAD_TO_MULTIPLE_OF,
                notes=[],
            )
        if cutoff < 2:
            raise ValueError("LLaMA-Factory packing needs a cutoff_len of at least 2")
        examples = shortened(total - answers, answers, cutoff - 1)
        edges = batch_edges(len(total), self.preprocessing_batch_size, self.preprocessing_num_workers)
        notes = [
            f"a pack has {cutoff - 1} example tokens, one less than cutoff_len, padded to "
            f"{-(-cutoff // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF} (neat_packing with flash-attention 2 "
            "removes the padding)"
        ]
        if len(edges) > 2:
            notes.append(
                f"examples are packed {self.preprocessing_batch_size} at a time, in {len(edges) - 1} batches (a "
                "validation split by val_size would shuffle them first)"
            )
        return hf_forecast(
            examples=examples,
            filled=first_fit_decreasing(examples.tokens, cutoff - 1, edges),
            settings=settings,
            capacity=cutoff - 1,
            multiple=PAD_TO_MULTIPLE_OF,
            width=cutoff,
            notes=notes,
        )


def shortened(prompts: NDArray[np.int64], answers: NDArray[np.int64], cutoff: int) -> Examples:
    """Apply LLaMA-Factory's `infer_seqlen`. A short answer shortens the prompt, a short prompt the answer. Otherwise
    both are shortened in proportion.

    Args:
        prompts: tokens of each prompt, shape [examples].
        answers: tokens of each answer, shape [examples].
        cutoff: tokens of prompt and answer at most.
    """
    # The share is computed in floating point and cut off, as there, so that the last bit agrees.
    share = (cutoff * (answers / (prompts + answers))).astype(np.int64)
    room = np.where(answers * 2 < cutoff, cutoff, np.where(prompts * 2 < cutoff, cutoff - prompts, share))
    answer = np.minimum(room, answers)
    prompt = np.minimum(np.maximum(cutoff - answer, 0), prompts)
    return Examples(
        kept=np.arange(len(prompts)),
        tokens=prompt + answer,
        labels=answer,
        truncated=np.flatnonzero((prompt < prompts) | (answer < answers)),
        answers_cut=np.flatnonzero(answer < answers),
        dropped=np.zeros(0, np.int64),
    )


BATCHING: Batching = LlamaFactoryBatching()
