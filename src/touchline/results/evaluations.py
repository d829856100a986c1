"""Finished evaluations. The catalog reads them, since the evaluation process asks too and may not import results."""

from __future__ import annotations

from touchline.catalog.evaluations import (
    finished_evaluation,
    is_current,
    is_earlier,
    read_evaluations,
    scores_path,
    settings_sha256,
)

__all__ = [
    "finished_evaluation",
    "is_current",
    "is_earlier",
    "read_evaluations",
    "scores_path",
    "settings_sha256",
]
