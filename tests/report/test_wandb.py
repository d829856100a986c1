"""To Weights & Biases, read back by its own client: `wandb sync`, to a server on this machine that keeps all of it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.report.made_series import Scalars, same, scalars, series
from tests.report.wandb_server import Received, wandb_server

from touchline.report.trackers.protocol import Exported, RunSeries
from touchline.report.trackers.to_wandb import Wandb
from touchline.report.trackers.wandb_files import rows

pytestmark = pytest.mark.trackers


def sync(commands: list[str | None]) -> dict[tuple[str, str], Received]:
    """Type the printed lines one after the other, and give what the server has then."""
    with wandb_server() as server:
        for command in commands:
            assert command is not None
            _type(command, server.address)
    assert server.unknown == []
    return server.runs


def _type(command: str, address: str) -> None:
    words = shlex.split(command)
    assert words[0] == "wandb"
    environment = os.environ | {
        "WANDB_BASE_URL": address, "WANDB_API_KEY": "a" * 40, "WANDB_ERROR_REPORTING": "false", "NO_PROXY": "*",
    }  # fmt: skip
    # It keeps logs of its own in a folder `wandb` where it is called.
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("wandb")), *words[1:]], cwd=here,
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


def values(run: Received) -> Scalars:
    """By name, (optimizer steps, value), as the server has it."""
    found: Scalars = {}
    for row in run.rows:
        for name, value in row.items():
            if "/" in name:
                found.setdefault(name, []).append((row["step"], float(value)))
    return found


def export(folder: Path, run: RunSeries) -> Exported:
    return Wandb(folder).export(run)


def test_the_printed_line_brings_everything_to_the_server(tmp_path: Path) -> None:
    run = series(30, 2, ended=True)
    done = export(tmp_path, run)
    assert (done.added, done.total) == (32, 32)
    found = sync([done.command])[run.experiment, run.id]
    assert same(values(found), scalars(run))
    assert [row["_step"] for row in found.rows] == list(range(32))
    assert [row["_timestamp"] for row in found.rows[:30]] == [point.time_unix for point in run.training]
    assert (found.name, found.group) == (run.run, run.experiment)
    assert found.config["lora_rank"] == {"value": 4}
    assert found.summary["exact_match"] == run.summary["exact_match"]
    assert found.summary["status"] == "completed"
    assert found.exit_code == 0


def test_a_run_that_failed_ends_so(tmp_path: Path) -> None:
    run = series(3, ended=True, failed=True)
    assert sync([export(tmp_path, run).command])[run.experiment, run.id].exit_code == 1


def test_a_second_export_writes_no_byte(tmp_path: Path) -> None:
    def state() -> dict[Path, int]:
        # W&B's service writes into its own logs whenever it likes.
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.suffix in (".wandb", ".json")}

    first = export(tmp_path, series(20, 1))
    before = state()
    second = export(tmp_path, series(20, 1))
    assert (second.added, second.command) == (0, first.command)
    assert state() == before
    assert len(before) == 2


def test_parts_become_one_run_synced_together(tmp_path: Path) -> None:
    for count, scores in ((5, 0), (12, 1), (20, 1)):
        export(tmp_path, series(count, scores))
    run = series(20, 2, ended=True)
    command = export(tmp_path, run).command
    assert command is not None
    assert len(shlex.split(command)) == 2 + 4, "one line for all parts"
    found = sync([command])[run.experiment, run.id]
    assert same(values(found), scalars(run))
    assert [row["_step"] for row in found.rows] == list(range(22))


def test_parts_become_one_run_synced_as_they_come(tmp_path: Path) -> None:
    """Synced, exported again, synced again: what is marked as synced is not named again."""
    run = series(20, 1, ended=True)
    with wandb_server() as server:
        first = export(tmp_path, series(8)).command
        assert first is not None
        _type(first, server.address)
        assert export(tmp_path, series(8)).command is None, "all of it is synced"
        second = export(tmp_path, run).command
        assert second is not None
        assert not set(shlex.split(first)[2:]) & set(shlex.split(second)[2:])
        _type(second, server.address)
    found = server.runs[run.experiment, run.id]
    assert same(values(found), scalars(run))
    assert len(server.runs) == 1


def test_what_wandb_clean_removed_is_not_exported_again(tmp_path: Path) -> None:
    export(tmp_path, series(8))
    shutil.rmtree(tmp_path / "wandb")
    assert export(tmp_path, series(8)).added == 0
    assert export(tmp_path, series(10)).added == 2


def test_without_the_note_the_files_tell(tmp_path: Path) -> None:
    """A kill between W&B's file and the note about it doubles nothing."""
    export(tmp_path, series(8, 1))
    for note in tmp_path.glob("*.touchline.json"):
        note.unlink()
    assert export(tmp_path, series(8, 1)).added == 0


@pytest.mark.parametrize("note", ["", "{", "[]", '{"rows": "x"}', '{"rows": 1}'])
def test_a_note_that_is_spoiled_counts_for_nothing(tmp_path: Path, note: str) -> None:
    export(tmp_path, series(8))
    (path,) = tmp_path.glob("*.touchline.json")
    path.write_text(note)
    assert export(tmp_path, series(9)).added == 1


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_a_kill_cut_off_is_continued(tmp_path: Path, share: float) -> None:
    export(tmp_path, series(200))
    for note in tmp_path.glob("*.touchline.json"):
        note.unlink()
    (path,) = tmp_path.rglob("*.wandb")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    left = len(list(rows(path)))
    assert left < 200
    run = series(200, ended=True)
    done = export(tmp_path, run)
    assert done.added == 200 - left
    assert same(values(sync([done.command])[run.experiment, run.id]), scalars(run))


@pytest.mark.parametrize("data", [b"", b"x" * 100, b":W&B\xe1\xbe\x00", b":W&B\xe1\xbe\x00" + b"\xff" * 64])
def test_a_file_that_is_none_of_wandbs_has_no_rows(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "run-x.wandb"
    path.write_bytes(data)
    assert list(rows(path)) == []


def test_our_reading_of_the_file_is_the_clients(tmp_path: Path) -> None:
    """Long enough to go over several blocks; some records lie across their borders."""
    run = series(1500, 1, ended=True)
    done = export(tmp_path, run)
    (path,) = tmp_path.rglob("*.wandb")
    assert path.stat().st_size > 4 * 32768
    ours = [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows(path)]
    found = sync([done.command])[run.experiment, run.id]
    theirs = [{name: value for name, value in row.items() if not name.startswith("_")} for row in found.rows]
    assert repr([sorted(row.items()) for row in ours]) == repr([sorted(row.items()) for row in theirs])


def test_a_project_gets_a_name_that_wandb_takes(tmp_path: Path) -> None:
    run = series(2, experiment="a/b#c?d%e:f")
    assert list(sync([export(tmp_path, run).command])) == [("a-b-c-d-e-f", run.id)]
