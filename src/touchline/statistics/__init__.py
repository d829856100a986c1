"""Intervals and tests for shares of right answers, in plain Python; nothing here knows of files or models."""

from __future__ import annotations

from touchline.statistics.paired import PairedDifference, mcnemar_exact, newcombe_paired
from touchline.statistics.proportion import Interval, wilson
from touchline.statistics.several import holm

__all__ = ["Interval", "PairedDifference", "holm", "mcnemar_exact", "newcombe_paired", "wilson"]
