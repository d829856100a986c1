"""Trainings that differ in a few settings as one design: factors, pairs, exclusions and seeds; and their data files:
separate ones, all rows of one, and stages whose file has no rows.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from touchline.backends.config_table import ALL_ROWS, MODEL, SEED, Carried, ImportedTraining, NotCarried, nested
from touchline.core.errors import TouchlineError
from touchline.data.readers import FORMATS, WHOLE, read_rows
from touchline.experiment.data_config import DATASET_KEYS
from touchline.experiment.experiment import Experiment
from touchline.experiment.read import STAND_IN
from touchline.experiment.settings import value_of
from touchline.experiment.training import LORA_ALPHA_PER_RANK
from touchline.experiment.validate import adapter, dotted_keys

T = TypeVar("T")
_RANK, _ALPHA = "train.lora.rank", "train.lora.alpha"


def design_of(trainings: Sequence[ImportedTraining]) -> tuple[dict[str, object], list[str]]:
    """Return `models`, `data`, `train`, `factors`, `pairs`, `exclude` and `seeds` of runs, and what differs.

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
            notes.append(f"experiment.yaml adds a run that the source lacks: {_text({**cell, SEED: seed})}")
        else:
            data.setdefault("exclude", []).append(entry)  # type: ignore[attr-defined]
    names: dict[str, list[str]] = {}
    for training, row in zip(trainings, rows, strict=True):
        names.setdefault(_text(row), []).append(training.name)
    why = "give the same run, because they differ only in settings that are not imported"
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
    return dotted_keys(Experiment).index(key)


def _value(training: ImportedTraining, key: str, defaults: Mapping[str, object]) -> object:
    found = training.settings.get(key)
    if found is not None:
        return found.value
    if key in (MODEL, SEED):
        return "" if key == MODEL else 1
    value = value_of(STAND_IN, key)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    node: object = defaults
    for part in key.split("."):
        node = node[part] if isinstance(node, dict) else None
    return node


def _distinct(values: Iterable[T]) -> list[T]:
    found: dict[str, T] = {}
    for value in values:
        found.setdefault(_text(value), value)
    return list(found.values())


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


_UNREADABLE = (TouchlineError, OSError, ValueError)
_SMALL_BYTES = 1 << 12
"""Size from which a file has rows."""
_ONE, _TRAIN = DATASET_KEYS
_VALIDATION = "data.validation"
_SHARE = "data.train_fraction"
_OTHERS = "others have separate files"
_NO_SHARE = f"all rows of the file train: {_OTHERS}"
ALL_TRAIN = frozenset({ALL_ROWS, _NO_SHARE})
"""Reasons of values that are no other training here: all rows train."""


def with_rows(
    trainings: Sequence[ImportedTraining], left: Sequence[NotCarried], folder: Path
) -> tuple[list[ImportedTraining], list[NotCarried], list[str]]:
    """Return runs that lose no row and are one design, the values that are not carried over, and notes.

    Args:
        left: the values that are not carried over.
        folder: folder of the new experiment, which files are relative to.
    """
    if any(_has_splits(each, folder) for each in trainings):
        left = [each for each in left if each.why != ALL_ROWS]
    elif all(any(each.why == ALL_ROWS for each in training.left) for training in trainings):
        trainings = [_on_all_rows(each) for each in trainings]
    shares = {(share.source, share.where) for each in trainings if (share := each.settings.get(_SHARE))}
    found, notes = with_files(trainings, folder)
    if not any(_SHARE in each.settings for each in found):
        left = [replace(each, why=_NO_SHARE) if (each.key, each.where[0]) in shares else each for each in left]
    return found, list(left), notes


def with_files(trainings: Sequence[ImportedTraining], folder: Path) -> tuple[list[ImportedTraining], list[str]]:
    """Return runs that all name a file of training rows if one of them does, so that they are one design; and
    notes.

    A training without a validation file trains on all rows of its file, as with its own trainer. Trainings on one file
    are validated on one file, which changes no weights.

    Args:
        folder: folder of the new experiment, which files are relative to.
    """
    found: list[ImportedTraining] = []
    notes: list[str] = []
    known: dict[str, Carried] = {}
    separate = any(_TRAIN in training.settings for training in trainings)
    for each in trainings:
        settings = dict((_on_all_rows(each) if separate else each).settings)
        share, held = settings.get(_SHARE), settings.get(_VALIDATION)
        if held is not None and _has_no_rows(folder, str(held.value)):
            notes.append(f"{each.name}: {held.value} has no rows, so there is no validation")
            del settings[_VALIDATION]
        if separate and share is not None:
            notes.append(f"{each.name}: trains on all rows, not on a fraction of {share.value}: {_OTHERS}")
            del settings[_SHARE]
        if _TRAIN in settings and _VALIDATION in settings:
            known.setdefault(str(settings[_TRAIN].value), settings[_VALIDATION])
        found.append(replace(each, settings=settings))
    for place, each in enumerate(found):
        other = known.get(str(each.settings[_TRAIN].value)) if _TRAIN in each.settings else None
        own = each.settings.get(_VALIDATION)
        if other is not None and (own is None or own.value != other.value):
            notes.append(f"{each.name}: validated on {other.value}, as another run on the same file")
            found[place] = replace(each, settings={**each.settings, _VALIDATION: other})
    return found, notes


def _on_all_rows(training: ImportedTraining) -> ImportedTraining:
    """Return a training with the file of all its rows as that of its training rows."""
    return replace(training, settings={_TRAIN if key == _ONE else key: at for key, at in training.settings.items()})


def stages_without_rows(trainings: Sequence[ImportedTraining], folder: Path) -> dict[str, str]:
    """Return the stages whose training file is here and has no rows, each with its file.

    Args:
        folder: folder of the new experiment, which files are relative to.
    """
    files = {each.name: carried for each in trainings for key in DATASET_KEYS if (carried := each.settings.get(key))}
    return {name: str(found.value) for name, found in files.items() if _has_no_rows(folder, str(found.value))}


def _has_no_rows(folder: Path, name: str) -> bool:
    """Return True for a data file without rows. What cannot be read may have some."""
    path = _placed(folder, name)
    try:
        if not path.is_file() or path.stat().st_size > _SMALL_BYTES or path.suffix.lower() not in FORMATS:
            return False
        return path.stat().st_size == 0 or not any(read_rows(path).splits.values())
    except _UNREADABLE:
        return False


def _has_splits(training: ImportedTraining, folder: Path) -> bool:
    """Return True if a training's data file is on this machine, and has splits of its own."""
    file = training.settings.get(_ONE)
    try:
        return file is not None and WHOLE not in read_rows(_placed(folder, str(file.value))).splits
    except _UNREADABLE:
        return False


def _placed(folder: Path, name: str) -> Path:
    """Return the path of a file; the folder of the new experiment need not exist yet."""
    return Path(os.path.normpath(folder.absolute() / name))
