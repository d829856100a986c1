"""What a tracker's module offers, and which modules there are."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Protocol

from touchline.core.errors import HostError, InputError, install_hint
from touchline.report.trackers.exported import Exported, RunSeries

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""Trackers, and the package that each needs; the extra of touchline has the tracker's name."""


class Tracker(Protocol):
    """A tracker, opened at a place.

    `export` may be called any number of times with the same run, by any number of processes one after the other, and
    adds what is not there yet. A kill in between loses nothing and doubles nothing.
    """

    where: str
    """Its folder, or its server's address."""
    view: str | None
    """What to type to look at it, quoted for a shell."""

    def export(self, run: RunSeries) -> Exported:
        """Add what is not there yet of one run."""
        ...


def open_tracker(name: str, directory: Path | None, default: Path) -> Tracker:
    """A tracker at a place.

    Args:
        name: one of `TRACKERS`.
        directory: its folder, as the user gave it; none: where the tracker's own variable says (TRACKIO_DIR,
            WANDB_DIR, MLFLOW_TRACKING_URI), else `default`.
        default: a folder of the experiment.

    Raises:
        InputError: there is no such tracker, or its place is of no use.
        HostError: its package is not installed.
    """
    if name not in TRACKERS:
        raise InputError(f"there is no tracker {name!r}", expected=", ".join(TRACKERS))
    if importlib.util.find_spec(TRACKERS[name]) is None:
        raise HostError(
            f"the package {TRACKERS[name]} is not installed",
            expected=f"touchline with its extra {name}",
            hint=install_hint(name),
        )
    module = importlib.import_module(f"touchline.report.trackers.to_{name}")
    tracker: Tracker = module.open_at(directory, default)
    return tracker
