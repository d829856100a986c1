"""Behaviour of the script of QLoRA stages that rules depend on."""

from __future__ import annotations

from touchline.backends.traits import TrainerTraits

TRAITS = TrainerTraits(
    hf_loop=True,
    loop_of="trl",
    packs=False,
    many_epochs=5,
    parent_key="prev_checkpoint",
    resumes_by_itself=True,
    folder_is_chain=True,
)
"""Its behaviour."""
