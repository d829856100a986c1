"""What a fault is here: files with one thing wrong, the code that must fire, and the same files with it right."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASES = Path(__file__).parent / "bases"


@dataclass(frozen=True, kw_only=True)
class FaultCase:
    name: str
    """What is wrong, in words."""
    code: str
    """The code that must be among the findings."""
    files: dict[str, str]
    """Files by their path in an empty folder."""
    near_miss: dict[str, str]
    """The same as near as possible, and valid: the code must be silent, and so must every error."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of workflow.check: `gpu`, `cpus`, ..."""


def base(kind: str) -> str:
    (path,) = [path for path in BASES.iterdir() if path.stem == kind]
    return path.read_text(encoding="utf-8")


def changed(text: str, old: str, new: str) -> str:
    """A text with one thing changed, which must be there exactly once."""
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the text"
    return text.replace(old, new)
