"""What became of a job that was to be handed to a scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """What became of one job when it was submitted."""

    job: str
    """The job."""
    job_id: str
    """Its id; empty when it has none."""
    word: str
    """`submitted`, `in the queue already`, `refused`, `later`, `unclear`, `stopped`."""
    reason: str = ""
    """Why, when it was not taken."""
