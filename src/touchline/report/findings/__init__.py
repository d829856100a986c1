"""Conclusions of a report, as sentences with their numbers."""

from touchline.report.findings.bottom_line import headline
from touchline.report.findings.concluded import Decided, FindingInputs, findings, is_complete

__all__ = ["Decided", "FindingInputs", "findings", "headline", "is_complete"]
