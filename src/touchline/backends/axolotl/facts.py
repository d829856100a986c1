"""Facts about axolotl: its program, behaviour that rules depend on, coefficients of its memory."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.hf_loop import HF_LOOP_MEMORY
from touchline.backends.traits import TrainerTraits
from touchline.slurm.launches import LaunchCommand

COMMANDS = (LaunchCommand(name="axolotl", config_first=True),)
"""Programs that start it."""


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
"""Its behaviour."""


MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_upcasts=None,
    source=(
        "transformers' Trainer, which its own inherits from: that one's figure; with cut cross entropy or Liger no "
        "logits are held, which a config says. Its own patches were not read: the interval is wider for it"
    ),
)
"""transformers' Trainer with its own patches; cut cross entropy or Liger where a config sets it."""
