"""Export to Weights & Biases: offline runs, and the commands that upload them.

No network is used. Each export with new points writes one more offline file of the same run; `wandb sync` merges them.
W&B requires its row number `_step` to increase, so it counts rows here, and every metric uses `step`, the optimizer
steps done, as its axis.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

from touchline.core.files import disk_errors
from touchline.report.trackers.series import Point, RunSeries

VARIABLE = "WANDB_DIR"
"""Environment variable of the folder that contains W&B's folder `wandb`."""
STEP = "step"
"""Axis of every metric: optimizer steps done."""


def view(directory: Path) -> str | None:
    """Return the command that shows the runs of a folder; None, as the server shows them after `wandb sync`."""
    del directory
    return None


def write(directory: Path, run: RunSeries, new: tuple[Point, ...], first: int) -> None:
    """Write one more offline file of a run.

    Args:
        directory: folder that contains W&B's folder `wandb`.
        new: points that no earlier export has.
        first: number of points before them.
    """
    import wandb

    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    logging.getLogger("wandb").setLevel(logging.ERROR)
    with disk_errors("folder", directory):
        (directory / "wandb").mkdir(parents=True, exist_ok=True)
    handle: Any = wandb.init(
        mode="offline",
        dir=str(directory),
        project=re.sub(r"[/\\#?%:]", "-", run.experiment),
        group=run.experiment,
        name=run.run,
        id=run.id,
        notes=run.question or None,
        config=run.config,
        reinit="finish_previous",
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            # Parts of one run may be written in the same second.
            x_sync_dir_suffix=str(first),
            x_start_time=time.time() if first else run.started_unix,
        ),
    )
    handle.define_metric(STEP, hidden=True)
    handle.define_metric("*", step_metric=STEP)
    for number, point in enumerate(new, first):
        handle.log({**point.values, STEP: point.step, "_timestamp": point.time_unix}, step=number)
    handle.summary.update({"status": run.status})
    handle.finish(exit_code=1 if run.failed else 0)


def command(directory: Path, run: RunSeries) -> str | None:
    """Return the command that uploads the files of a run that W&B has not marked as synced; None without any."""
    files = sorted((directory / "wandb").glob(f"offline-run-*-{glob.escape(run.id)}*/*.wandb"))
    waiting = [str(path.parent) for path in files if not path.with_name(f"{path.name}.synced").exists()]
    return shlex.join(["wandb", "sync", *waiting]) if waiting else None
