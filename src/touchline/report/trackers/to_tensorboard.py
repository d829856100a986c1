"""Export to TensorBoard: one event file for a run's training and one for its scores, reproducible byte for byte.

    <directory>/<run>/events.out.tfevents.<begun>.touchline              train/..., validation/..., hyperparameters
    <directory>/<run>/evaluation/events.out.tfevents.<begun>.touchline   evaluation/...

The existing file is compared with the expected one. If it is the beginning of it, the rest is appended. An open
TensorBoard then continues to read, and an interrupted write is completed. Any other file, such as that of an earlier
training, is replaced atomically.
"""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from touchline.core.files import disk_errors, inside, open_append, read_bytes, write_atomic
from touchline.report.trackers.protocol import Exported, Point, RunSeries


def open_at(directory: Path | None, default: Path) -> TensorBoard:
    """Open TensorBoard's log folder."""
    return TensorBoard(directory or default)


class TensorBoard:
    """TensorBoard log folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self.where = str(self._directory)
        self.view = f"tensorboard --logdir {shlex.quote(self.where)}"

    def export(self, run: RunSeries) -> Exported:
        """Update both files of a run."""
        folder = inside(self._directory, run.run)
        name = f"events.out.tfevents.{int(run.started_unix)}.touchline"
        header = _hyperparameters(run)
        added = _update(folder / name, [_version(run.started_unix), header, *_events(run.training)], lead=2)
        if run.evaluations:
            events = [_version(run.started_unix), *_events(run.evaluations)]
            added += _update(folder / "evaluation" / name, events, lead=1)
        return Exported(
            run=run.run,
            id=run.run,
            where=str(folder),
            added=added,
            total=len(run.training) + len(run.evaluations),
        )


def _update(path: Path, events: Sequence[bytes], *, lead: int) -> int:
    """Write exactly these records. Return the number added, not counting the first `lead`."""
    whole = b"".join(events)
    with disk_errors("event file", path):
        stale = [other for other in path.parent.glob("events.out.tfevents.*.touchline") if other != path]
        try:
            there = read_bytes(path)
        except FileNotFoundError:
            there = b""
        if there != whole:
            if there and whole.startswith(there):
                with os.fdopen(open_append(path), "ab") as stream:
                    stream.write(whole[len(there) :])
            else:
                write_atomic(path, whole)
                there = b""
        # The file is of an older training of this run. TensorBoard would draw both as one line.
        for other in stale:
            other.unlink()
    ends = _ends(events)
    return sum(len(there) < end for end in ends[lead:])


def _ends(events: Sequence[bytes]) -> list[int]:
    """Return the end offset of each record."""
    ends: list[int] = []
    position = 0
    for event in events:
        position += len(event)
        ends.append(position)
    return ends


def _events(points: Sequence[Point]) -> Iterator[bytes]:
    """Yield one record per point."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for point in points:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in sorted(point.values.items())]
        yield _record(Event(wall_time=point.time_unix, step=point.step, summary=Summary(value=values)))


def _version(started_unix: float) -> bytes:
    """Return the first record of every event file."""
    from tensorboard.compat.proto.event_pb2 import Event

    return _record(Event(wall_time=started_unix, file_version="brain.Event:2"))


def _hyperparameters(run: RunSeries) -> bytes:
    """Return the record of the HPARAMS page. It contains only values that do not change during training."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import plugin_data_pb2, summary_v2

    settings = {key: value for key, value in run.config.items() if value is not None}
    start = summary_v2.hparams_pb(settings, trial_id=run.id, start_time_secs=run.started_unix)
    for value in start.value:
        # It contains a serialized message, whose settings are ordered differently in every process.
        plugin = value.metadata.plugin_data
        data = plugin_data_pb2.HParamsPluginData.FromString(plugin.content)
        plugin.content = data.SerializeToString(deterministic=True)
    return _record(Event(wall_time=run.started_unix, summary=start))


def _record(event: object) -> bytes:
    """Return a record of an event file: length, both checksums, content."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString(deterministic=True))  # type: ignore[attr-defined]
    return buffer.getvalue()
