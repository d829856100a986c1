"""Programs that start ms-swift."""

from __future__ import annotations

from touchline.slurm.launches import LaunchCommand

COMMANDS = (LaunchCommand(name="swift"),)
