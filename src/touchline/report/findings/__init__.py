"""What a report concludes, in sentences that carry their numbers."""

from touchline.report.findings.bottom_line import headline
from touchline.report.findings.concluded import Concluded, findings, is_complete

__all__ = ["Concluded", "findings", "headline", "is_complete"]
