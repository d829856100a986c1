"""Warm-up in steps of an imported training as the share of its steps, where its data file is on this machine."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

from touchline.backends.imports import Carried, ImportedTraining, NotCarried, Reason
from touchline.backends.registry import traits_of
from touchline.core.errors import TouchlineError
from touchline.data.readers import read_rows
from touchline.spec import defaults
from touchline.spec.tasks.capitalization import split_sizes
from touchline.spec.training import optimizer_steps

_KEY = "train.warmup_fraction"
_LIMIT_BYTES = 256 << 20


def with_warmup(training: ImportedTraining, folder: Path) -> ImportedTraining:
    """Return a training whose warm-up steps are a share of all steps, if these can be counted; else as it is.

    Args:
        training: the training.
        folder: folder of the new experiment.
    """
    stated = training.stated
    warmup = None if stated is None or stated.max_steps is not None else stated.warmup_steps
    if stated is None or warmup is None or warmup.value <= 0 or _KEY in training.settings:
        return training
    steps = _steps(training, folder)
    if not steps:
        return training
    left = [each for each in training.left if each.key != warmup.key]
    if warmup.value >= steps:
        why = f"the training has {steps} steps, so that its rate never reaches the peak"
        long = NotCarried(
            key=warmup.key,
            value=warmup.value,
            where=(warmup.where,),
            reason=Reason.REFUSED,
            why=why,
            instead=f"{_KEY}: 0.1, with a peak that is right for it",
        )
        return replace(training, left=(*left, long))
    share = round(warmup.value / steps, 6)
    if math.ceil(share * steps) != warmup.value:
        share = round((warmup.value - 0.5) / steps, 6)
    source = f"{warmup.key}: {warmup.value} of {steps} steps"
    carried = Carried(value=share, source=source, where=warmup.where, is_default=False)
    return replace(training, settings={**training.settings, _KEY: carried}, left=tuple(left))


def _steps(training: ImportedTraining, folder: Path) -> int | None:
    """Return the steps of a training whose rows are not packed. None if they are not known."""
    settings = {key: each.value for key, each in training.settings.items()}
    path, batch = settings.get("data.path"), settings.get("train.global_batch_size")
    if settings.get("train.packed") is True or not isinstance(path, str) or not isinstance(batch, int):
        return None
    rows = _rows(Path(os.path.normpath(folder / path)), settings.get("data.train_fraction", defaults.TRAIN_FRACTION))
    devices, epochs = settings.get("compute.gpus_per_run", 1), settings.get("train.epochs", defaults.EPOCHS)
    if rows is None or not isinstance(devices, int) or not isinstance(epochs, int):
        return None
    drops = traits_of(training.backend or "").drops_incomplete
    return optimizer_steps(rows, batch, devices=devices, drops_incomplete=drops) * epochs


def _rows(path: Path, share: object) -> int | None:
    """Return the rows of a data file that train."""
    try:
        if not path.is_file() or path.stat().st_size > _LIMIT_BYTES:
            return None
        splits = read_rows(path).splits
    except (TouchlineError, OSError, ValueError):
        return None
    if "train" in splits:
        return len(splits["train"])
    rows = sum(len(each) for each in splits.values())
    return split_sizes(rows, share)[0] if isinstance(share, float) else rows
