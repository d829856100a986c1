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
_NO_SHARE = "all rows of the file train: others have separate files"
ALL_TRAIN = frozenset({ALL_ROWS.why, _NO_SHARE})
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
        left = [each for each in left if each.why != ALL_ROWS.why]
    elif all(any(each.why == ALL_ROWS.why for each in training.left) for training in trainings):
        trainings = [_on_all_rows(each) for each in trainings]
    shares = {(share.source, share.where) for each in trainings if (share := each.settings.get(_SHARE))}
    found, notes = with_files(trainings, folder)
    if not any(_SHARE in each.settings for each in found):
        left = [replace(each, why=_NO_SHARE) if (each.key, each.where[0]) in shares else each for each in left]
    return found, list(left), notes


def with_files(trainings: Sequence[ImportedTraining], folder: Path) -> tuple[list[ImportedTraining], list[str]]:
    """Return trainings whose data files are one design, and notes.

    Args:
        trainings: the trainings of a source.
        folder: folder of the new experiment, which files are relative to.
    """
    found, emptied = _without_empty_validation(trainings, folder)
    found, notes = _in_one_form(found)
    return found, [*emptied, *notes]


def _in_one_form(trainings: Sequence[ImportedTraining]) -> tuple[list[ImportedTraining], list[str]]:
    """Return trainings that all name a file of training rows if one of them does, so that they are one design; and
    notes.

    A training without a validation file trains on all rows of its file, as with its own trainer. Trainings on one file
    are validated on one file, which changes no weights.
    """
    if not any(_TRAIN in training.settings for training in trainings):
        return list(trainings), []
    found: list[ImportedTraining] = []
    notes: list[str] = []
    known: dict[str, Carried] = {}
    for each in trainings:
        settings = dict(_on_all_rows(each).settings)
        if (share := settings.pop("data.train_fraction", None)) is not None:
            notes.append(
                f"{each.name}: trains on all rows, not on a share of {share.value}: others have separate files"
            )
        if _TRAIN in settings and _VALIDATION in settings:
            known.setdefault(str(settings[_TRAIN].value), settings[_VALIDATION])
        found.append(replace(each, settings=settings))
    for place, each in enumerate(found):
        file = str(each.settings[_TRAIN].value) if _TRAIN in each.settings else ""
        own, other = each.settings.get(_VALIDATION), known.get(file)
        if other is not None and (own is None or own.value != other.value):
            named = "none" if own is None else f"{own.value}"
            notes.append(
                f"{each.name}: validated on {other.value}, as another training on {file}; its config has {named}"
            )
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


def _without_empty_validation(
    trainings: Sequence[ImportedTraining], folder: Path
) -> tuple[list[ImportedTraining], list[str]]:
    """Return the trainings without validation files that have no rows, and a note for each."""
    kept: list[ImportedTraining] = []
    notes: list[str] = []
    for each in trainings:
        found, settings = each.settings.get(_VALIDATION), each.settings
        if found is not None and _has_no_rows(folder, str(found.value)):
            notes.append(f"{each.name}: {found.value} has no rows, so nothing is validated")
            settings = {key: value for key, value in settings.items() if key != _VALIDATION}
        kept.append(replace(each, settings=settings))
    return kept, notes


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
