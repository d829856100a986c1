"""LLaMA-Factory's templates by name, limited to plain text around the turns.

Source: src/llamafactory/data/template.py (0.9.5), checked against it in tests/backends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BOS = "\0bos"
"""Stands for the tokenizer's begin token."""
EOS = "\0eos"
"""Stands for the tokenizer's end token."""
HERE = "{{content}}"
"""Placeholder of the turn's text."""

Slots = tuple[str, ...]
"""Pieces that are tokenised one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slotted:
    """A template as pieces of text."""

    user: Slots = (HERE,)
    """The user's turn, with what opens the answer."""
    answer: Slots = (HERE, EOS)
    """The answer, with what ends it; this is what the loss is taken on."""
    system: Slots = (HERE,)
    """The system turn."""
    prefix: Slots = ()
    """Beginning of a row."""
    default_system: str = ""
    """The system turn where the row has none."""
    stop_words: Slots = ()
    """Tokens that are made special; the first takes the end token's place where `replaces_eos` says so."""
    replaces_eos: bool = False
    """Whether the first stop word becomes the end token."""
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
        user=(BOS, "[INST] {{content}} [/INST]"),
        system=("<<SYS>>\n{{content}}\n<</SYS>>\n\n",),
        system_in_user=True,
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
"""The templates by the name that `template:` gives."""
