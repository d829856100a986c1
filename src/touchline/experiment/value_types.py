"""Types of values in files that users write, with their bounds; checked when a file is read."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt, MinLen

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[float, Gt(0), Lt(1)]
Text = Annotated[str, MinLen(1)]
