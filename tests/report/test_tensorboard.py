"""To TensorBoard, read back with its own EventAccumulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.made_series import Scalars, same, scalars, series

from touchline.report.trackers.protocol import RunSeries
from touchline.report.trackers.to_tensorboard import TensorBoard

pytestmark = pytest.mark.trackers

FLOAT32 = 1e-6
"""Event files hold single precision."""


def read(folder: Path, run: str) -> Scalars:
    """What TensorBoard shows of a run, of both its folders."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    found: Scalars = {}
    for place in (folder / run, folder / run / "evaluation"):
        if place.is_dir():
            seen = EventAccumulator(str(place), size_guidance={SCALARS: 0}).Reload()
            for tag in seen.Tags()["scalars"]:
                found[tag] = [(event.step, event.value) for event in seen.Scalars(tag)]
    return found


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("events*")}


def test_everything_is_read_back(tmp_path: Path) -> None:
    run = series(30, 2, ended=True)
    done = TensorBoard(tmp_path).export(run)
    assert (done.added, done.total) == (32, 32)
    assert same(read(tmp_path, run.run), scalars(run), FLOAT32)


def test_times_are_those_of_the_measurement(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = series(3)
    TensorBoard(tmp_path).export(run)
    events = EventAccumulator(str(tmp_path / run.run)).Reload().Scalars("train/loss")
    assert [event.wall_time for event in events] == [point.time_unix for point in run.training]


def test_settings_stand_on_the_page_of_hyperparameters(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    run = series(1)
    TensorBoard(tmp_path).export(run)
    tags = EventAccumulator(str(tmp_path / run.run)).Reload().summary_metadata
    data = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    assert data.hparams["lora_rank"].number_value == 4
    assert data.hparams["model"].string_value == "Tiny"


def test_a_second_export_changes_nothing(tmp_path: Path) -> None:
    run = series(20, 1)
    TensorBoard(tmp_path).export(run)
    before = files(tmp_path)
    assert TensorBoard(tmp_path).export(run).added == 0
    assert files(tmp_path) == before


def test_what_is_new_is_appended(tmp_path: Path) -> None:
    """The file that an open TensorBoard reads is the same one, and its beginning stays."""
    TensorBoard(tmp_path).export(series(5))
    (path,) = tmp_path.rglob("events*")
    beginning, inode = path.read_bytes(), path.stat().st_ino
    assert TensorBoard(tmp_path).export(series(20, 1)).added == 16
    assert path.read_bytes().startswith(beginning)
    assert path.stat().st_ino == inode
    assert same(read(tmp_path, series(0).run), scalars(series(20, 1)), FLOAT32)


@pytest.mark.parametrize("cut", [0, 5, 40, 200, -1, -9])
def test_a_write_that_was_killed_is_completed(tmp_path: Path, cut: int) -> None:
    TensorBoard(tmp_path).export(series(10))
    (path,) = tmp_path.rglob("events*")
    path.write_bytes(path.read_bytes()[:cut])
    TensorBoard(tmp_path).export(series(20))
    assert same(read(tmp_path, series(0).run), scalars(series(20)), FLOAT32)


def test_a_file_that_was_spoiled_is_written_anew(tmp_path: Path) -> None:
    TensorBoard(tmp_path).export(series(10))
    (path,) = tmp_path.rglob("events*")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    TensorBoard(tmp_path).export(series(10))
    assert same(read(tmp_path, series(0).run), scalars(series(10)), FLOAT32)


def test_a_training_that_was_started_afresh_replaces_the_one_before(tmp_path: Path) -> None:
    TensorBoard(tmp_path).export(series(10))
    fresh = series(4, begun=1_700_009_999.0)
    TensorBoard(tmp_path).export(fresh)
    assert same(read(tmp_path, fresh.run), scalars(fresh), FLOAT32)


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    run = series(3)
    mine = tmp_path / run.run / "events.out.tfevents.1.host"
    mine.parent.mkdir()
    mine.write_bytes(b"")
    TensorBoard(tmp_path).export(run)
    assert mine.exists()


def test_a_run_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    from touchline.core.errors import InputError

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "r1_rank4").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out"):
        TensorBoard(tmp_path / "logs").export(series(3))


def test_runs_are_kept_apart(tmp_path: Path) -> None:
    def longer(name: str, count: int) -> RunSeries:
        return series(count, run=name)

    tracker = TensorBoard(tmp_path)
    for name, count in (("a", 3), ("b", 5)):
        tracker.export(longer(name, count))
    assert [len(read(tmp_path, name)["train/loss"]) for name in "ab"] == [3, 5]
