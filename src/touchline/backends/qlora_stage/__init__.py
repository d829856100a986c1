"""The stage configs of a published QLoRA project on surgical images: one YAML file a stage, read by its own script."""

from __future__ import annotations

from touchline.backends.facts import TrainerTraits

TRAITS = TrainerTraits(
    hf_loop=True,
    loop_of="trl",
    packs=False,
    many_epochs=5,
    parent_key="prev_checkpoint",
    resumes_by_itself=True,
    folder_is_chain=True,
)
