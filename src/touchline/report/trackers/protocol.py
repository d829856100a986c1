"""Protocol of a tracker's module, and the list of modules."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Protocol

from touchline.core.errors import HostError, InputError, install_hint
from touchline.report.trackers.exported import Exported, RunSeries

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""Trackers with the package that each needs. The extra of touchline has the tracker's name."""


class Tracker(Protocol):
    """Open tracker.

    `export` can be called repeatedly with the same run, by several processes in turn. It adds the missing points. If it
    is killed, no point is lost or duplicated.
    """

    where: str
    """Folder of the tracker, or its server's address."""
    view: str | None
    """Command that opens it, quoted for a shell."""

    def export(self, run: RunSeries) -> Exported:
        """Add the missing points of one run."""
        ...


def open_tracker(name: str, directory: Path | None, default: Path) -> Tracker:
    """Return an open tracker.

    Args:
        name: one of `TRACKERS`.
        directory: its folder, as the user gave it; None: the tracker's own variable (TRACKIO_DIR,
            WANDB_DIR, MLFLOW_TRACKING_URI), else `default`.
        default: a folder of the experiment.

    Raises:
        InputError: there is no such tracker, or its folder is not usable.
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
