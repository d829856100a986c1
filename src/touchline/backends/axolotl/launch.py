"""Programs that start axolotl."""

from __future__ import annotations

from touchline.slurm.launches import LaunchCommand

COMMANDS = (LaunchCommand(name="axolotl", config_first=True),)
