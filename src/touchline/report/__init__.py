"""RESULTS.md and its figures, made from the results alone: nothing in them is invented."""

from touchline.report.markdown import results_markdown

__all__ = ["results_markdown"]
