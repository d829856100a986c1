"""Programs that start torchtune."""

from __future__ import annotations

from touchline.slurm.launches import LaunchCommand

COMMANDS = (
    LaunchCommand(
        name="tune", has_options=True, verb="run", nproc=("nproc_per_node", "nproc-per-node"), only_trains=True
    ),
)
