"""Programs that start trainings through DeepSpeed."""

from __future__ import annotations

from touchline.slurm.launches import LaunchCommand

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
