"""What `touchline clean` found and did."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.results.verification_types import Deletable, Depth

CLEAN_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptBroken:
    """A checkpoint that is not sound, and stays all the same."""

    run: str
    """The run."""
    path: str
    """Relative to the experiment's folder."""
    codes: tuple[str, ...]
    """What is wrong with it."""
    why: str
    """Why it stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """The answer."""

    schema_version: int = CLEAN_SCHEMA_VERSION
    """Version of this form."""
    experiment: str
    """The experiment."""
    depth: Depth
    """How far the checkpoints were read before anything was called sound or broken."""
    performed: bool
    """Whether it was removed, or only shown."""
    items: tuple[Deletable, ...]
    """What may go, or has gone."""
    size_bytes: int
    """What that gives back."""
    kept: tuple[KeptBroken, ...]
    """Broken checkpoints that stay."""
