"""What a backend's folder says of its configs: which files are of its format, and what they state.

A folder's `format.py` holds `FORMATS`; nothing else names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from touchline.core.finding import Finding
from touchline.spec.foreign import Dialect, ForeignDocument
from touchline.spec.partial import StatedTraining


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReading:
    """What was read from one config."""

    trainings: tuple[StatedTraining, ...]
    """The trainings that it states: one, or none where it is of another use (generation, evaluation, merging)."""
    findings: tuple[Finding, ...] = ()
    """Unknown keys, wrong kinds of values, missing keys: what shows without knowing model, data or machine."""


class ConfigFormat(Protocol):
    """One kind of config file."""

    name: str
    """The backend's folder, `torchtune`."""
    title: str
    """What to call such a file, `torchtune config`."""
    dialect: Dialect
    """The loader that it is read by."""

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Whether a file is of this format, by its keys; cautious, for a tree holds many other YAML files."""
        ...

    def read(self, document: ForeignDocument) -> ConfigReading:
        """What it states, and what is wrong with the file by itself."""
        ...
