"""Levels of factors, as every room names them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

STAGE = "stage"
"""What the stage of a chain is called among a run's levels."""


SEEDS = "seeds"
"""What the seed is called among them."""

BACKEND = "train.backend"
"""Key of the factor that is the trainer."""


_PLAIN = re.compile(r"[\w.+/-]+|\[.*\]|\{.*\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """Level of a factor, for the tables and the report."""

    factor: str
    """The dotted key, `train.lora.rank`."""
    value: str
    """The level, as text."""


def level_text(value: object) -> str:
    """Return a level as shown in tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def flow_text(text: str) -> str:
    """Return a level's text as it is typed inside braces of YAML."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
