"""Program that tries training steps of another trainer, for `touchline selftest`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProbe:
    """Program of a backend that reads a `ProbeRequest` and answers as `touchline.train.probe` does."""

    packages: tuple[str, ...]
    """Packages that it needs in touchline's environment."""
    script: str
    """Source of the program."""
