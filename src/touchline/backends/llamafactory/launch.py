"""Programs that start LLaMA-Factory."""

from __future__ import annotations

from touchline.slurm.launches import LaunchCommand

COMMANDS = (LaunchCommand(name="llamafactory-cli", config_first=True),)
