"""Exported checkpoints. The catalog reads them, since the evaluation process asks too and may not import results."""

from __future__ import annotations

from touchline.catalog.checkpoints import MARKER, read_checkpoints, read_training_marker, training_complete

__all__ = ["MARKER", "read_checkpoints", "read_training_marker", "training_complete"]
