"""Folders with trainings that touchline did not make: their runs, read from logs, configs and checkpoints."""

from touchline.results.imported.find import find

__all__ = ["find"]
