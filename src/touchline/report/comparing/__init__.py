"""Experiments held against each other."""

from touchline.report.comparing.compared import compare

__all__ = ["compare"]
