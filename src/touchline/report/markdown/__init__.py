"""RESULTS.md, section by section."""

from touchline.report.markdown.document import results_markdown

__all__ = ["results_markdown"]
