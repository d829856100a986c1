"""Programs that start TRL."""

from __future__ import annotations

from touchline.slurm.launches import LaunchCommand

COMMANDS = (LaunchCommand(name="trl", config_first=True),)
