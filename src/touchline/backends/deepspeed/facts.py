"""Facts about DeepSpeed: its program, behaviour that rules depend on, coefficients of its memory."""

from __future__ import annotations

from touchline.backends.traits import TrainerTraits
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
"""Programs that start it."""


TRAITS = TrainerTraits(stage_words=("zero", "ds", "deepspeed"))
"""Its behaviour."""
