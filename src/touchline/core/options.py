"""Declaration of a command's option on the field of a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """Option of the command line that fills the annotated field: `Annotated[int, Option("Epochs.", min=1)]`."""

    help: str
    metavar: str | None = None
    flag: str | None = None
    """None: from the field's name."""
    min: float | None = None
    max: float | None = None
    old: str | None = None
    """Former name, still taken."""
    is_argument: bool = False
    """Whether it is given by its position."""
