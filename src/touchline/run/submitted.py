"""Result of submitting a job to a scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """Result of one job's submission."""

    job: str
    """Job name."""
    job_id: str
    """Job id; empty if there is none."""
    word: str
    """`submitted`, `in the queue already`, `refused`, `later`, `unclear`, `stopped`."""
    reason: str = ""
    """Reason if it was not accepted."""
