"""Runs as series of points, the protocol of a tracker's module, and the list of modules."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from touchline.core.errors import HostError, InputError, install_hint
from touchline.results.run_result import Setting

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Values measured at one step."""

    step: int
    """Optimizer steps done; 0 is before the first."""
    time_unix: float
    """Time in seconds since 1970."""
    values: dict[str, float]
    """Values by name, such as `train/loss`; a non-finite value stays NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSeries:
    """Run in a form that any tracker accepts.

    Both series only grow at their end while the same training continues. A tracker without deletion therefore receives
    only the remaining points.
    """

    experiment: str
    """Name of the experiment: a project, in most trackers."""
    run: str
    """Name of the run."""
    id: str
    """Stable id of a training, independent of the user and the folder. A training that restarts gets a new one. At most
    64 characters of `[A-Za-z0-9._-]`.
    """
    question: str
    """Question of the experiment; empty if none was given."""
    config: dict[str, Setting]
    """Settings by dotted key, and the identity of the run: model, dataset, seed, levels."""
    started_unix: float
    """Start time."""
    training: tuple[Point, ...]
    """Training and validation values, one point per step."""
    evaluations: tuple[Point, ...]
    """Scores of evaluated checkpoints, in order of their steps."""
    summary: dict[str, float | str]
    """Results as numbers and text: scores with their intervals, losses, durations, status."""
    ended: bool
    """Whether no further points are expected."""
    failed: bool
    """Whether it ended without completing its plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """Result of an export for one run."""

    run: str
    """Name of the run."""
    id: str
    """Id of the run in the tracker."""
    where: str
    """Folder, file or address that holds it."""
    added: int
    """Number of points that this export added."""
    total: int
    """Number of its points in the tracker, as far as this export knows."""
    command: str | None = None
    """Command that uploads this run to the tracker's server, quoted for a shell; None if there is nothing to do."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Result of an export."""

    schema_version: int = 1
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    tracker: str
    """Name of the tracker: `tensorboard`, `wandb`, `trackio` or `mlflow`."""
    where: str
    """Folder of the tracker, or the address of its server."""
    view: str | None
    """Command that opens it, quoted for a shell."""
    runs: tuple[Exported, ...]
    """Results by run, in the plan's order."""
    skipped: tuple[str, ...]
    """Runs without any data yet, each with the reason."""
