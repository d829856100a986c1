"""Comparison of experiments."""

from touchline.report.comparing.compared import compare

__all__ = ["compare"]
