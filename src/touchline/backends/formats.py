"""Config formats of the backends: which files they claim, and the training that these state.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class StagesDraft:
    """Experiment of a set of stage configs."""

    data: dict[str, object]
    """Content of experiment.yaml."""
    notes: tuple[str, ...]
    """What is not as in the configs."""


class PlacePath(Protocol):
    """Function that converts a path of a config."""

    def __call__(self, path: str, beside: str | None) -> str:
        """Return a path relative to the folder of the file `beside`, or to the experiment's folder if None."""


class ExperimentOfStages(Protocol):
    """Conversion of a backend's stage configs to one experiment."""

    def __call__(self, configs: Mapping[str, StatedTraining], name: str, place: PlacePath) -> StagesDraft:
        """Return the experiment of the trainings by the stages' names.

        Raises:
            InputError: configs that are not one experiment; with every reason.
        """
