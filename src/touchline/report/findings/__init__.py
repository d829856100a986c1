"""Conclusions of a report: the answer, the claims with their numbers, and remarks on what limits them."""

from touchline.report.findings.answer import answer, is_complete
from touchline.report.findings.claims import claims
from touchline.report.findings.remarks import remarks

__all__ = ["answer", "claims", "is_complete", "remarks"]
