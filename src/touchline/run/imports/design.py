"""Trainings that differ in a few settings as one design: factors, pairs, exclusions and seeds."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from touchline.backends.imports import MODEL, SEED, ImportedTraining, nested
from touchline.experiment.defaults import LORA_ALPHA_PER_RANK
from touchline.experiment.experiment import Experiment
from touchline.experiment.overlay import setting
from touchline.experiment.validate import adapter, dotted_keys
from touchline.run.imports.carrier import STAND_IN

T = TypeVar("T")
_RANK, _ALPHA = "train.lora.rank", "train.lora.alpha"


def design_of(trainings: Sequence[ImportedTraining]) -> tuple[dict[str, object], list[str]]:
    """Return `models`, `data`, `train`, `factors`, `pairs`, `exclude` and `seeds` of trainings, and what differs.

    A setting that one training lacks has touchline's default there.

    Args:
        trainings: at least one.
    """
    defaults = json.loads(adapter(Experiment).dump_json(STAND_IN))
    keys = sorted({key for each in trainings for key in each.settings}, key=_order)
    rows = [{key: _value(each, key, defaults) for key in keys} for each in trainings]
    if all(_has_default_alpha(row) for row in rows) and len({_text(row[_RANK]) for row in rows}) > 1:
        keys.remove(_ALPHA)
    varying = [key for key in keys if len({_text(row[key]) for row in rows}) > 1]
    common = {key: rows[0][key] for key in keys if key not in varying and key not in (MODEL, SEED)}
    data: dict[str, object] = {"models": [rows[0][MODEL]] if MODEL in rows[0] else []}
    data |= nested(common)
    seeds = _distinct(row.get(SEED, 1) for row in rows)
    axes = [key for key in varying if key != SEED]
    cells = _distinct({key: row[key] for key in axes} for row in rows)
    data |= _crossed(cells, axes)
    if any(MODEL in pair for pair in data.get("pairs", ())):  # type: ignore[attr-defined]
        del data["models"]
    data["seeds"] = seeds
    there = {_text([{key: row[key] for key in axes}, row.get(SEED, 1)]) for row in rows}
    missing = [(cell, seed) for cell, seed in itertools.product(cells, seeds) if _text([cell, seed]) not in there]
    notes = []
    for cell, seed in missing:
        # An exclusion compares single values; a list in it stands for any of its entries.
        entry = {**{key: value for key, value in cell.items() if not isinstance(value, list | dict)}, SEED: seed}
        if any(all(_text(row.get(key, 1)) == _text(value) for key, value in entry.items()) for row in rows):
            notes.append(f"the source has no run with {_text({**cell, SEED: seed})}; experiment.yaml has one")
        else:
            data.setdefault("exclude", []).append(entry)  # type: ignore[attr-defined]
    names: dict[str, list[str]] = {}
    for training, row in zip(trainings, rows, strict=True):
        names.setdefault(_text(row), []).append(training.name)
    why = "give the same run: they differ only in what is not carried over"
    return data, [*notes, *(f"{', '.join(same)} {why}" for same in names.values() if len(same) > 1)]


def _crossed(cells: Sequence[Mapping[str, object]], axes: Sequence[str]) -> dict[str, object]:
    """Return `models` and `factors` of settings that are crossed, else `pairs` of all of them."""
    levels = {key: _distinct(cell[key] for cell in cells) for key in axes}
    if math.prod(map(len, levels.values())) != len(cells):
        return {"pairs": list(cells)}
    found: dict[str, object] = {MODEL: levels.pop(MODEL)} if MODEL in levels else {}
    return found | ({"factors": levels} if levels else {})


def _has_default_alpha(row: Mapping[str, object]) -> bool:
    """Return True if a training's alpha is what touchline takes for its rank."""
    rank, alpha = row.get(_RANK), row.get(_ALPHA)
    return isinstance(rank, int) and alpha == LORA_ALPHA_PER_RANK * rank


def _order(key: str) -> int:
    """Return the place of a key in experiment.yaml."""
    return dotted_keys(Experiment).index(key)


def _value(training: ImportedTraining, key: str, defaults: Mapping[str, object]) -> object:
    found = training.settings.get(key)
    if found is not None:
        return found.value
    if key in (MODEL, SEED):
        return "" if key == MODEL else 1
    value = setting(STAND_IN, key)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    node: object = defaults
    for part in key.split("."):
        node = node[part] if isinstance(node, dict) else None
    return node


def _distinct(values: Iterable[T]) -> list[T]:
    """Return values without repetition, in order."""
    found: dict[str, T] = {}
    for value in values:
        found.setdefault(_text(value), value)
    return list(found.values())


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
