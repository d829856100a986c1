"""Behaviour of LLaMA-Factory that rules depend on."""

from __future__ import annotations

from touchline.backends.traits import TrainerTraits

TRAITS = TrainerTraits(
    hf_loop=True,
    packing_ways={"positions": "LLaMA-Factory neat_packing", "nothing": "LLaMA-Factory packing without neat_packing"},
    zero_alpha_is_default=True,
    sharding_settings=("deepspeed", "fsdp"),
    many_epochs=5,
    parent_key="adapter_name_or_path",
    registry="dataset_info.json",
    registry_key="dataset_dir",
)
