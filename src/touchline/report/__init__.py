"""Figures, tables and the report: what was measured, and what it does and does not show."""
