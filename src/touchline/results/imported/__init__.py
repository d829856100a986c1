"""Import of run folders that touchline did not make, from their logs, configs and checkpoints."""

from touchline.results.imported.find import find

__all__ = ["find"]
