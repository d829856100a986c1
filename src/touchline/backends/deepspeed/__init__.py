"""DeepSpeed (Microsoft)."""

from __future__ import annotations

from touchline.backends.facts import TrainerTraits
from touchline.slurm.script import LaunchCommand

COMMANDS = (
    LaunchCommand(
        name="deepspeed",
        starts_any=True,
        has_options=True,
        flags=frozenset({"use_deepspeed"}),
        nproc=("num_gpus",),
        own_files="deepspeed/launcher/",
    ),
)


TRAITS = TrainerTraits(stage_words=("zero", "ds", "deepspeed"))
