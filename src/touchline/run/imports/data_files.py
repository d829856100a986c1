"""Data files of imported trainings: separate ones, all rows of one, and stages whose file has no rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from touchline.backends.imports import ALL_ROWS, Carried, ImportedTraining, NotCarried
from touchline.core.errors import TouchlineError
from touchline.data.readers import FORMATS, WHOLE, read_rows
from touchline.experiment.experiment import DATASET_KEYS

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
    """Return trainings that lose no row and are one design, the values that are not carried over, and notes.

    Args:
        trainings: the trainings of a source.
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
    """Return trainings that all name a file of training rows if one of them does, so that they are one design; and
    notes.

    A training without a validation file trains on all rows of its file, as with its own trainer. Trainings on one file
    are validated on one file, which changes no weights.

    Args:
        trainings: the trainings of a source.
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
            notes.append(f"{each.name}: {held.value} has no rows, so nothing is validated")
            del settings[_VALIDATION]
        if separate and share is not None:
            notes.append(f"{each.name}: trains on all rows, not on a share of {share.value}: {_OTHERS}")
            del settings[_SHARE]
        if _TRAIN in settings and _VALIDATION in settings:
            known.setdefault(str(settings[_TRAIN].value), settings[_VALIDATION])
        found.append(replace(each, settings=settings))
    for place, each in enumerate(found):
        other = known.get(str(each.settings[_TRAIN].value)) if _TRAIN in each.settings else None
        own = each.settings.get(_VALIDATION)
        if other is not None and (own is None or own.value != other.value):
            notes.append(f"{each.name}: validated on {other.value}, as another training on its file")
            found[place] = replace(each, settings={**each.settings, _VALIDATION: other})
    return found, notes


def _on_all_rows(training: ImportedTraining) -> ImportedTraining:
    """Return a training with the file of all its rows as that of its training rows."""
    return replace(training, settings={_TRAIN if key == _ONE else key: at for key, at in training.settings.items()})


def stages_without_rows(trainings: Sequence[ImportedTraining], folder: Path) -> dict[str, str]:
    """Return the stages whose training file is here and has no rows, each with its file.

    Args:
        trainings: training of each stage.
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
