"""Export to TensorBoard: one event file per run with its losses and scores, and the record of the HPARAMS page."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

from touchline.core.files import disk_errors, inside, read_bytes, write_atomic
from touchline.report.trackers.series import Point, RunSeries

VARIABLE = None
"""Environment variable of the folder; TensorBoard has none."""


def view(directory: Path) -> str | None:
    """Return the command that shows the runs of a folder."""
    return f"tensorboard --logdir {shlex.quote(str(directory))}"


def write(directory: Path, run: RunSeries, new: tuple[Point, ...], first: int) -> None:
    """Write the event file of a run with all its points, in place of an earlier one.

    Args:
        directory: log folder.
        new: points that no earlier export has.
        first: number of points before them.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    del new, first
    folder = inside(directory, run.run)
    settings = {key: value for key, value in run.config.items() if value is not None}
    path = folder / f"events.out.tfevents.{int(run.started_unix)}.touchline"
    with tempfile.TemporaryDirectory() as scratch:
        writer = EventFileWriter(scratch)
        header = summary_v2.hparams_pb(settings, trial_id=run.id, start_time_secs=run.started_unix)
        writer.add_event(Event(wall_time=run.started_unix, summary=header))
        for point in (*run.training, *run.evaluations):
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in sorted(point.values.items())]
            writer.add_event(Event(wall_time=point.time_unix, step=point.step, summary=Summary(value=values)))
        writer.close()
        (written,) = Path(scratch).iterdir()
        data = read_bytes(written)
    with disk_errors("event file", path):
        # A file of an older training of this run: TensorBoard would draw both as one line.
        for other in folder.glob("events.out.tfevents.*.touchline"):
            if other != path:
                other.unlink()
        write_atomic(path, data)


def command(directory: Path, run: RunSeries) -> str | None:
    """Return the command that uploads a run; None, as there is nothing to upload."""
    del directory, run
    return None
