"""Figure of a command, or the reason why there is none. Figures need the extra `report`."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.errors import install_hint

FIGURES_OFF = f"Figures are off: the extra `report` is not installed ({install_hint('report')})."
"""Text of a report that replaces its figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Figure to draw, or the reason why there is none."""

    spec: dict[str, object] | None
    """Vega-Lite spec."""
    note: str
    """Description of the figure, or the reason why it is missing."""


def off_because(fault: str) -> str:
    """Return a message that figures are off although the drawing library is installed."""
    return f"Figures are off: {fault}. The rest of the report does not depend on them."
