"""A config's text read as its format reads it, for the tests of formats."""

import importlib
from typing import TypeVar

from touchline.backends.config_reading import ConfigFormat, ConfigReading
from touchline.core.finding import Finding
from touchline.experiment.foreign import parse_foreign
from touchline.experiment.partial import Stated, StatedTraining

T = TypeVar("T")
PLACE = "1B_rank8/finetune.yaml"


def format_of(backend: str, name: str = PLACE) -> ConfigFormat:
    *_, last = formats = importlib.import_module(f"touchline.backends.{backend}.format").FORMATS
    found: ConfigFormat = last if name == "setup_finetune.yaml" else formats[0]
    return found


def read(backend: str, text: str, name: str = PLACE) -> ConfigReading:
    each = format_of(backend, name)
    return each.read(parse_foreign(text, name, each.dialect))


def training(backend: str, text: str, name: str = PLACE) -> StatedTraining:
    (found,) = read(backend, text, name).trainings
    return found


def faults(backend: str, text: str, name: str = PLACE) -> dict[tuple[str, str], Finding]:
    return {(each.code, each.subject): each for each in read(backend, text, name).findings}


def told(backend: str, text: str) -> list[str]:
    return [f"{each.code} {each.severity.value} {each.subject}" for each in read(backend, text).findings]


def claims(backend: str, text: str) -> bool:
    each = format_of(backend)
    return each.claims(parse_foreign(text, PLACE, each.dialect).data, PLACE)


def value_of(stated: Stated[T] | None) -> T | None:
    return None if stated is None else stated.value
