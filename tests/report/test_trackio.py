"""To trackio, read back with its own API, in a process that knows only where the folder is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_series import Scalars, same, scalars, series

from touchline.report.trackers.protocol import Exported

pytestmark = pytest.mark.trackers

EXPORT = """\
import json, sys
from dataclasses import asdict
from pathlib import Path
from touchline.report.trackers.to_trackio import Trackio
from tests.report.made_series import series
tracker = Trackio(Path(sys.argv[1]))
done = [asdict(tracker.export(series(**each))) for each in json.loads(sys.argv[2])]
print(json.dumps(done))
"""
READ = """\
import json, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
project = sys.argv[1]
found = [
    {
        "name": run.name,
        "id": run.id,
        "config": run.config,
        "logs": SQLiteStorage.get_logs(project, run.name, run_id=run.id),
    }
    for run in trackio.Api().runs(project)
]
print("ANSWER", json.dumps(found, default=str))
"""


def python(program: str, *arguments: str, folder: Path | None = None) -> str:
    """A fresh process: trackio reads its folder's name when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRACKIO")}
    if folder is not None:
        environment["TRACKIO_DIR"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def export(folder: Path, *runs: dict[str, Any]) -> list[Exported]:
    told = json.loads(python(EXPORT, str(folder), json.dumps(runs)).splitlines()[-1])
    return [Exported(**each) for each in told]


def read(folder: Path, project: str) -> list[dict[str, Any]]:
    text = python(READ, project, folder=folder)
    found: list[dict[str, Any]] = json.loads(text[text.index("ANSWER ") + len("ANSWER ") :])
    return found


def values(run: dict[str, Any]) -> Scalars:
    found: Scalars = {}
    for row in run["logs"]:
        for name, value in row.items():
            if "/" in name:
                found.setdefault(name, []).append((row["step"], float(value)))
    return found


def test_everything_is_read_back(tmp_path: Path) -> None:
    run = series(30, 2, ended=True)
    (done,) = export(tmp_path, {"steps": 30, "scores": 2, "ended": True})
    assert (done.added, done.total) == (32, 32)
    (found,) = read(tmp_path, run.experiment)
    assert (found["name"], found["id"]) == (run.run, run.id)
    assert same(values(found), scalars(run))
    assert found["config"]["lora_rank"] == 4
    assert found["config"]["status"] == "completed"
    assert found["config"]["_Group"] == run.experiment
    assert found["logs"][0]["timestamp"].startswith("2023-11-14T22:13:22"), "when it was measured"


def test_again_and_again_and_further(tmp_path: Path) -> None:
    """What is there is not added again, by this process or by the next."""
    done = export(tmp_path, {"steps": 5}, {"steps": 5}, {"steps": 20, "scores": 1})
    assert [each.added for each in done] == [5, 0, 16]
    done = export(tmp_path, {"steps": 20, "scores": 2}, {"steps": 20, "scores": 2})
    assert [each.added for each in done] == [1, 0]
    (found,) = read(tmp_path, series(0).experiment)
    assert same(values(found), scalars(series(20, 2)))


def test_a_training_that_was_started_afresh_is_another_run(tmp_path: Path) -> None:
    export(tmp_path, {"steps": 5}, {"steps": 3, "begun": 1_700_009_999.0})
    assert sorted(len(found["logs"]) for found in read(tmp_path, series(0).experiment)) == [3, 5]


def test_a_name_that_trackio_keeps_for_itself_is_put_aside(tmp_path: Path) -> None:
    export(tmp_path, {"steps": 2, "experiment": "rank_configs"})
    (found,) = read(tmp_path, "rank_configs-experiment")
    assert len(found["logs"]) == 2


def test_the_database_works_on_file_systems_without_shared_memory(tmp_path: Path) -> None:
    """No write-ahead log: its index is a file that is mapped into memory, which network file systems do not share."""
    export(tmp_path, {"steps": 2})
    (database,) = tmp_path.glob("*.db")
    assert database.read_bytes()[18:20] == b"\x01\x01", "the header of a database that has no write-ahead log"


def test_one_process_has_one_folder(tmp_path: Path) -> None:
    """trackio reads the name once; a second folder in the same process would get nothing."""
    program = EXPORT.replace("print(json.dumps(done))", "Trackio(Path(sys.argv[1]) / 'other')")
    with pytest.raises(AssertionError, match="this process has used trackio with"):
        python(program, str(tmp_path), "[]")
