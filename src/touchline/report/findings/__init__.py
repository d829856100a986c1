"""Conclusions of a report, as sentences with their numbers."""

from touchline.report.findings.bottom_line import headline
from touchline.report.findings.concluded import FindingInputs, findings, is_complete

__all__ = ["FindingInputs", "findings", "headline", "is_complete"]
