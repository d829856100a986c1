"""Behaviour of axolotl that rules depend on."""

from __future__ import annotations

from touchline.backends.traits import TrainerTraits

TRAITS = TrainerTraits(
    hf_loop=True,
    packing_ways={"positions": "axolotl"},
    steps_are_simulated=True,
    eager_attention_leaks=True,
    long_rows="leaves them out",
    sharding_settings=("deepspeed", "fsdp"),
    many_epochs=5,
    parent_key="lora_model_dir",
)
