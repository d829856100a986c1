"""Figure of a verb: what to draw, or why there is nothing to draw; without the extra `report` figures are off."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.errors import install_hint

FIGURES_OFF = f"Figures are off: the extra `report` is not installed ({install_hint('report')})."
"""What a report says instead of a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A picture to draw, or the reason why there is none."""

    spec: dict[str, object] | None
    """Its Vega-Lite spec."""
    note: str
    """What it shows, or why it is not there."""


def off_because(fault: str) -> str:
    """Say that figures are off although what draws them is installed."""
    return f"Figures are off: {fault}. The rest of the report does not depend on them."
