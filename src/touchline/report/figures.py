"""What a verb says of its picture: the PNG, or why there is none; without the extra `report` figures are off."""

from __future__ import annotations

from dataclasses import dataclass

FIGURES_OFF = "Figures are off: the extra `report` is not installed (`pip install 'touchline[report]'`)."
"""What a report says instead of a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A picture, or the reason why there is none."""

    png: bytes | None
    """The picture."""
    note: str
    """What it shows, or why it is not there."""
