"""Levels of factors, as every room names them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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


_NAMES = {
    "models": "base model",
    "data.path": "dataset",
    "data.train": "training data",
    "stage": "stage",
    "train.lora.rank": "rank",
    "train.lora.alpha": "alpha",
    "train.epochs": "epochs",
    "train.max_seq_len": "context",
    "train.packed": "packing",
    "train.lora.target_modules": "adapted layers",
}
"""Display names of settings by dotted key. The default is the key's last part."""


def factor_words(factor: str) -> str:
    """Return `rank` for `train.lora.rank`, `weight decay` for `train.weight_decay`."""
    return _NAMES.get(factor, factor.rsplit(".", 1)[-1].replace("_", " "))


def level_words(factor: str, value: str) -> str:
    """Return `rank 64` or `learning rate 0.0002`. A base model is given by its name only."""
    return value if factor == "models" else f"{factor_words(factor)} {value}"


def settings_words(levels: Sequence[Level]) -> str:
    """Return `rank 64, learning rate 2e-4`; `-` if only the base model and the seed vary."""
    words = [level_words(level.factor, level.value) for level in levels if level.factor not in ("models", SEEDS)]
    return ", ".join(words) or "-"
