"""Figures, tables and the report: the measured values and the conclusions that they allow."""
