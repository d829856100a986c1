"""Finished evaluations, as the catalog reads them: the evaluation process, which may not import results, asks it too."""

from __future__ import annotations

from touchline.catalog.evaluations import finished_evaluation, is_current, read_evaluations, settings_sha256

__all__ = ["finished_evaluation", "is_current", "read_evaluations", "settings_sha256"]
