"""Export to Weights & Biases: offline runs, and the commands that upload them.

No network is used. Each export with new points reads the existing offline files and writes one more file of the same
run. `wandb sync` merges them. W&B requires its row number `_step` to increase, so it counts rows here, and every metric
uses `step`, the optimizer steps done, as its axis.

A record of the exported points stays beside the files, because `wandb clean` removes synced files.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from touchline.core.files import disk_errors, read_bytes, write_atomic
from touchline.core.json_text import parse_json
from touchline.report.trackers.protocol import Exported, Point, RunSeries
from touchline.report.trackers.wandb_files import mend, rows

DIRECTORY = "WANDB_DIR"
STEP = "step"
"""Axis of every metric: optimizer steps done."""
_NOTE_SUFFIX = ".touchline.json"
_SYNCED = ".synced"
_FAILED = 1


@dataclass(kw_only=True, slots=True)
class _Held:
    """Content of a run's W&B files."""

    rows: int = 0
    """Number of rows so far: the next `_step`."""
    training: int = -1
    """Last step of the training; negative if there is none."""
    scores: set[str] = field(default_factory=set)
    """Exported scores, each as text."""
    ended: str = ""
    """Status and results of the run at the last export."""


def open_at(directory: Path | None, default: Path) -> Wandb:
    """Open a folder that contains W&B's folder `wandb`."""
    named = os.environ.get(DIRECTORY)
    return Wandb((directory or (Path(named) if named else default)).resolve())


class Wandb:
    """Folder of offline runs."""

    view: str | None = None
    """View command; None, since offline runs are viewed on the server after `wandb sync`."""

    def __init__(self, directory: Path) -> None:
        with disk_errors("folder", directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._files = directory / "wandb"
        self.where = str(self._files)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        logging.getLogger("wandb").setLevel(logging.ERROR)

    def export(self, run: RunSeries) -> Exported:
        """Write new points into one more offline file. Return the command that syncs the remaining files."""
        note = self._directory / f"{run.id}{_NOTE_SUFFIX}"
        for segment in self._segments(run.id):
            mend(segment)
        held = _merged(_read_note(note), _read_files(self._segments(run.id)))
        training = [point for point in run.training if point.step > held.training]
        scores = [point for point in run.evaluations if _text(point) not in held.scores]
        now = json.dumps([run.ended, run.failed, sorted(run.summary.items())])
        if training or scores or now != held.ended:
            self._write(run, (*training, *scores), held.rows)
            held.rows += len(training) + len(scores)
            held.training = max([held.training, *(point.step for point in training)])
            held.scores |= {_text(point) for point in scores}
            held.ended = now
            write_atomic(note, _note(held))
        waiting = [segment.parent for segment in self._segments(run.id) if not _is_synced(segment)]
        return Exported(
            run=run.run,
            id=run.id,
            where=str(waiting[-1]) if waiting else self.where,
            added=len(training) + len(scores),
            total=held.rows,
            command=shlex.join(["wandb", "sync", *map(str, waiting)]) if waiting else None,
        )

    def _segments(self, run_id: str) -> list[Path]:
        """Return the offline files of a run, oldest first."""
        wanted = re.compile(rf"offline-run-(\d{{8}}_\d{{6}})-{re.escape(run_id)}(-(\d+))?")
        found: list[tuple[int, str, Path]] = []
        for folder in self._files.glob("offline-run-*") if self._files.is_dir() else ():
            match = wanted.fullmatch(folder.name)
            path = folder / f"run-{run_id}.wandb"
            if match is not None and path.is_file():
                found.append((int(match[3] or 0), match[1], path))
        return [path for _, _, path in sorted(found)]

    def _write(self, run: RunSeries, points: Iterable[Point], first: int) -> None:
        """Write one more offline run with the same id."""
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            # Rows are ordered by their row number, so parts of one run may have been written in the same second.
            x_sync_dir_suffix=str(first),
            x_start_time=time.time() if first else run.started_unix,
        )
        with disk_errors("folder", self._files):
            self._files.mkdir(exist_ok=True)
        handle: Any = wandb.init(
            mode="offline",
            dir=str(self._directory),
            project=_project(run.experiment),
            group=run.experiment,
            name=run.run,
            id=run.id,
            notes=run.question or None,
            config=run.config,
            settings=settings,
            reinit="finish_previous",
        )
        handle.define_metric(STEP, hidden=True)
        handle.define_metric("*", step_metric=STEP)
        for number, point in enumerate(points, first):
            # W&B takes the time of a row from it. W&B computes relative time itself, from the export on.
            values = {**point.values, STEP: point.step, "_timestamp": point.time_unix}
            handle.log(values, step=number)
        handle.summary.update(run.summary)
        handle.finish(exit_code=_FAILED if run.failed else 0)


def _read_files(paths: Iterable[Path]) -> _Held:
    """Return the content of the files themselves, independent of their writer."""
    held = _Held()
    for path in paths:
        for row in rows(path):
            held.rows = max(held.rows, int(row["_step"]) + 1)
            step = int(row.get(STEP) or 0)
            values = {name: float(value) for name, value in row.items() if "/" in name and value is not None}
            if any(name.startswith("evaluation/") for name in values):
                held.scores.add(_text(Point(step=step, time_unix=0.0, values=values)))
            else:
                held.training = max(held.training, step)
    return held


def _merged(one: _Held, other: _Held) -> _Held:
    """Merge the content of both. The status of the run comes only from the record."""
    return _Held(
        rows=max(one.rows, other.rows),
        training=max(one.training, other.training),
        scores=one.scores | other.scores,
        ended=one.ended or other.ended,
    )


def _read_note(path: Path) -> _Held:
    try:
        data = parse_json(read_bytes(path))
        return _Held(
            rows=int(data["rows"]),
            training=int(data["training"]),
            scores=set(map(str, data["scores"])),
            ended=str(data["ended"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return _Held()


def _note(held: _Held) -> str:
    data = {"rows": held.rows, "training": held.training, "scores": sorted(held.scores), "ended": held.ended}
    return json.dumps(data, indent=1) + "\n"


def _is_synced(segment: Path) -> bool:
    """Return True if W&B marked a file as synced by another file beside it."""
    return segment.with_name(segment.name + _SYNCED).exists()


def _text(point: Point) -> str:
    """Return the scores at a step as text, so that equal scores give equal text."""
    values = ", ".join(f"{name}={value!r}" for name, value in sorted(point.values.items()) if not math.isnan(value))
    return f"{point.step}: {values}"


def _project(experiment: str) -> str:
    """Return a valid project name. W&B does not accept `/\\#?%:`."""
    return re.sub(r"[/\\#?%:]", "-", experiment)
