"""Sizes of models: from a name if nothing better is known, and the size classes of rules of thumb."""

from __future__ import annotations

import re
from typing import Final

BILLION: Final = 1_000_000_000
_FACTORS: Final = {"m": 1_000_000, "b": BILLION, "t": 1000 * BILLION}
# Not inside a word or number: of "A3B" (active parameters), "4bit" and "E2B" nothing is taken.
_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([mbt])(?![a-z0-9])", re.IGNORECASE)
_EXPERTS = re.compile(r"(?<![a-z0-9])\d+e(?![a-z0-9])")
_VERSION = re.compile(
    r"^(?:q?lora_)?(?:code_)?(?:llama_?[234](?:_[1-9])?(?:_vision)?|qwen_?(?:2_5|[1-9])|gemma[1-9]?|mistral|phi[1-9](?:_5)?)_"
)
"""Version parts at the start of a builder's name: in `llama3_2_1b` the 2 is the version's, in `qwen2_1_5b` the 1 is the
size."""
CLASSES: Final = ((1.5, "1B"), (4.0, "3B"), (9.0, "7B/8B"), (15.0, "13B"), (75.0, "70B"))
"""(billions of parameters at most, name): models are sold as 1B that have 1.24 billion, as 7B that have 7.6."""


def size_of_name(name: str) -> int | None:
    """Return the parameters that a model's name states. None if it states none.

    `Qwen2.5-0.5B` 0.5 billion, `8x7B` 56 billion, `SmolLM2-135M` 135 million, `llama3_2_1b` 1 billion. The last part of
    a path that has one counts. A name that gives only active parameters (`17B-16E`, `A3B`) gives none.
    """
    for part in reversed(re.split(r"[/\\]", name.strip().lower())):
        found = _size_of_part(part)
        if found is not None:
            return found
    return None


def states_size(name: str) -> bool:
    """Return True if a name holds a size, be it of the active parameters alone."""
    return size_text(name) is not None


def size_text(name: str) -> str | None:
    """Return the size in the name of a model or a run: `1B`, `0.5B`, `135M`. None if there is none."""
    match = _SIZE.search(_plain(name.lower()))
    return None if match is None else match[0].upper().replace("X", "x")


def split_name(name: str) -> tuple[str, str]:
    """Return the size as the name of a model writes it, and what stands before it: `135M` and `SmolLM2`.

    Where there is no size, both are the whole name.
    """
    match = _SIZE.search(name.replace("_", "-"))
    if match is None:
        return name, name
    return match[0].upper().replace("X", "x"), name[: match.start()].strip("-_. ") or name


def _plain(part: str) -> str:
    """Return a name with points for the underscores that stand for them, and dashes for the others."""
    # `_` between digits is a point in `stablelm-2-1_6b` and `qwen2_1_5b`, and none after a version: `llama3_2_1b`.
    plain = re.sub(r"(?<=-)(\d)_(\d+[mb])(?![a-z0-9])", r"\1.\2", part)
    if "_" in part and "-" not in part:
        plain = re.sub(r"(?<![\d.])([01])_(\d+[mb])(?![a-z0-9])", r"\1.\2", _VERSION.sub("", part))
    return plain.replace("_", "-")


def _size_of_part(part: str) -> int | None:
    plain = _plain(part)
    match = _SIZE.search(plain)
    if match is None or _EXPERTS.search(plain, match.end()):
        return None
    experts, number, unit = match.groups()
    return round(int(experts or 1) * float(number) * _FACTORS[unit])


def size_class(num_parameters: int) -> str:
    """Return a size class: `1B`, `3B`, `7B/8B`, `13B`, `70B`, or the billions of parameters beyond."""
    billions = num_parameters / BILLION
    return next((label for most, label in CLASSES if billions <= most), f"{billions:.0f}B")


def size_label(num_parameters: int) -> str:
    """Format a size: `135M`, `1.2B`, `70.6B`."""
    billions = num_parameters / BILLION
    if billions < 0.95:
        return f"{num_parameters / 1_000_000:.0f}M"
    return f"{billions:.3g}B"
