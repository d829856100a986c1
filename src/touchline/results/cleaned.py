"""Result of `touchline clean`."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.results.verification_types import Deletable, Depth

CLEAN_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptBroken:
    """Invalid checkpoint that is kept."""

    run: str
    """Run name."""
    path: str
    """Path relative to the experiment folder."""
    codes: tuple[str, ...]
    """Codes of the problems found."""
    why: str
    """Reason for keeping it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """Files that are safe to delete, or were deleted."""

    schema_version: int = CLEAN_SCHEMA_VERSION
    """Format version."""
    experiment: str
    """Experiment name."""
    depth: Depth
    """Verification depth of the checkpoints."""
    performed: bool
    """Whether the files were deleted; False for a dry run."""
    items: tuple[Deletable, ...]
    """Files and folders that are safe to delete."""
    size_bytes: int
    """Their total size."""
    kept: tuple[KeptBroken, ...]
    """Invalid checkpoints that are kept."""
