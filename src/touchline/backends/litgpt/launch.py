"""Programs that start LitGPT."""

from __future__ import annotations

from touchline.slurm.launches import LaunchCommand

COMMANDS = (LaunchCommand(name="litgpt"),)
