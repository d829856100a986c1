"""A config's text read as its format reads it, for the tests of formats."""

from __future__ import annotations

import importlib
from typing import TypeVar

from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.core.finding import Finding
from touchline.experiment.foreign import parse_foreign
from touchline.experiment.partial import Stated, StatedTraining

T = TypeVar("T")


def format_of(backend: str) -> ConfigFormat:
    """A backend's only format."""
    (found,) = importlib.import_module(f"touchline.backends.{backend}.format").FORMATS
    assert isinstance(found.name, str)
    result: ConfigFormat = found
    return result


def read(backend: str, text: str, name: str = "config.yaml") -> ConfigReading:
    """The reading of a text."""
    each = format_of(backend)
    return each.read(parse_foreign(text, name, each.dialect))


def training(backend: str, text: str) -> StatedTraining:
    """Its one training."""
    (found,) = read(backend, text).trainings
    return found


def faults(backend: str, text: str, name: str = "config.yaml") -> dict[tuple[str, str], Finding]:
    """Its findings by code and subject."""
    return {(each.code, each.subject): each for each in read(backend, text, name).findings}


def claims(backend: str, text: str, name: str = "config.yaml") -> bool:
    """Whether the format takes it for its own."""
    each = format_of(backend)
    return each.claims(parse_foreign(text, name, each.dialect).data, name)


def value_of(stated: Stated[T] | None) -> T | None:
    """Return a setting's value."""
    return None if stated is None else stated.value
