"""Tables of a report, declared once for RESULTS.md, report.html and a terminal."""
