"""Data files of imported trainings: separate ones, and stages whose file has no rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from touchline.backends.imports import Carried, ImportedTraining
from touchline.core.errors import HostError, InputError
from touchline.data.readers import FORMATS, read_rows
from touchline.spec.experiment import DATASET_KEYS

_SMALL_BYTES = 1 << 12
"""Size from which a file has rows."""
_ONE, _TRAIN = DATASET_KEYS
_VALIDATION = "data.validation"


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
        settings = {_TRAIN if key == _ONE else key: value for key, value in each.settings.items()}
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
    # The folder of the new experiment need not exist yet.
    path = Path(os.path.normpath(folder.absolute() / name))
    try:
        if not path.is_file() or path.stat().st_size > _SMALL_BYTES or path.suffix.lower() not in FORMATS:
            return False
        return path.stat().st_size == 0 or not any(read_rows(path).splits.values())
    except (InputError, HostError, OSError, ValueError):
        return False
