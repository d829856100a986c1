"""axolotl (0.19.0), and facts about it: its program, behaviour, memory."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.facts import TrainerTraits
from touchline.backends.hf_loop import HF_LOOP_MEMORY
from touchline.slurm.script import LaunchCommand

COMMANDS = (LaunchCommand(name="axolotl", config_first=True),)


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


MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_upcasts=None,
    source=(
        "value of transformers' Trainer, from which its trainer inherits. With cut cross entropy or Liger (in "
        "the config) no logits are kept. Its patches were not read, so the interval is wider"
    ),
)
"""transformers' Trainer with its own patches; cut cross entropy or Liger where a config sets it."""
