"""LLaMA-Factory (0.9.5; llmtuner in its first year), and facts about it: its program, behaviour, memory."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.facts import TrainerTraits
from touchline.backends.hf_loop import HF_LOOP_MEMORY
from touchline.slurm.script import LaunchCommand

COMMANDS = (LaunchCommand(name="llamafactory-cli", config_first=True),)


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


MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_double_quant=True,
    source=(
        "value of transformers' Trainer, from which its trainer inherits. Read in hparams/model_args.py: "
        "double_quantization is on, upcast_layernorm and upcast_lmhead_output are off, and also "
        "enable_liger_kernel, which keeps no logits"
    ),
)
"""transformers' Trainer; float32 adapters unless pure_bf16, norms and head cast up only where asked for."""
