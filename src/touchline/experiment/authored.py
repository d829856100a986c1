"""Experiments written in Python: their keys as the plain data of a file, read by the rules of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import PurePath

from touchline.core.errors import InputError, error_count, with_notes
from touchline.core.finding import Finding
from touchline.experiment.document import error
from touchline.experiment.experiment import Experiment
from touchline.experiment.read import read_experiment
from touchline.experiment.write import to_yaml

_NAME = "Experiment"
"""Name of the text in errors; there is no file yet."""


def read_keys(keys: Mapping[str, object]) -> tuple[Experiment, dict[str, object]]:
    """Return the experiment of some keys, and the keys as plain data.

    Raises:
        InputError: keys or values are wrong; with findings.
    """
    findings: list[Finding] = []
    data = {key: _plain(value, key, findings) for key, value in keys.items()}
    try:
        loaded = read_experiment(to_yaml(data) if data else "{}\n", _NAME)
    except InputError as fault:
        bad = tuple(each.subject for each in findings)
        findings += [replace(each, where=None) for each in fault.findings if not each.subject.startswith(bad or "\0")]
        loaded = None
    if findings or loaded is None:
        raise with_notes(
            InputError(
                error_count(_NAME, findings),
                findings=findings,
                hint=f"touchline check --explain {findings[0].code}" if findings else None,
            )
        ) from None
    return loaded.experiment, loaded.document.data


def with_keys(experiment: Experiment, values: Mapping[str, object], folder: str | PurePath) -> Experiment:
    """Return the experiment with values set by their dotted keys.

    Raises:
        InputError: keys or values are wrong; with findings.
    """
    data = experiment.written
    for key, value in values.items():
        *groups, last = ("factors", key.removeprefix("factors.")) if key.startswith("factors.") else key.split(".")
        node = data
        for group in groups:
            inner = node.setdefault(group, {})
            if not isinstance(inner, dict):
                inner = node[group] = {}
            node = inner
        node[last] = value
    return Experiment(folder=folder, **data)  # type: ignore[arg-type]


def _plain(value: object, key: str, findings: list[Finding]) -> object:
    """Return a value as a file holds it: tuples and ranges as lists, paths as texts, numbers of numpy as numbers."""
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            number = value.item() if hasattr(value, "item") else value
            if isinstance(number, float) and not math.isfinite(number):
                findings.append(_fault(key, f"expected a number, got {value!r}"))
                return None
            return number
        case PurePath():
            return str(value)
        case Mapping():
            return {str(name): _plain(inner, f"{key}.{name}", findings) for name, inner in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return [_plain(inner, f"{key}.{index}", findings) for index, inner in enumerate(value)]
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), key, findings)
    what = "a mapping with the keys of experiment.yaml" if is_dataclass(value) else "a text, number, list or mapping"
    findings.append(_fault(key, f"expected {what}, got {type(value).__name__}"))
    return None


def _fault(key: str, message: str) -> Finding:
    return error("EX003", key, f"{key}: {message}", None)
