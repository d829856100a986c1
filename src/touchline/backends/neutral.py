"""Settings of a backend that change no trained weights, so a sweep over them shows no difference.

`NEUTRAL` of a backend's `neutral.py` lists them; a backend without the file has none that are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class NeutralSettings:
    """Settings without effect on the weights."""

    settings: Mapping[str, str]
    """Dotted key of experiment.yaml, or the beginning of some with a dot behind it, and what it changes instead."""
    shuffles: bool
    """Whether the order of a file's rows is shuffled in every epoch, and so has no effect either."""

    def effect(self, key: str) -> str | None:
        """Return the effect of a setting other than on the weights. Return None if it changes the weights."""
        for known, effect in self.settings.items():
            if key == known or (known.endswith(".") and key.startswith(known)) or key == known.removesuffix("."):
                return effect
        return None


NEUTRAL_UNKNOWN = NeutralSettings(settings={}, shuffles=False)
