"""Config formats of the backends: which files they claim, and the training that these state.

A folder's `format.py` holds `FORMATS`; nothing else names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from touchline.core.finding import Finding
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import StatedTraining


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReading:
    """Result of reading a config."""

    trainings: tuple[StatedTraining, ...]
    """The trainings that it states: one, or none where it is of another use (generation, evaluation, merging)."""
    findings: tuple[Finding, ...] = ()
    """Unknown keys, wrong kinds of values, missing keys: what shows without knowing model, data or machine."""


class ConfigFormat(Protocol):
    """Format of a config file."""

    name: str
    """The backend's folder, `torchtune`."""
    title: str
    """Name of such a file, as in `torchtune config`."""
    dialect: Dialect
    """The loader that it is read by."""

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if the keys show this format. Be cautious: a tree holds many other YAML files."""
        ...

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Return the stated training, and the findings of the file alone."""
        ...
