"""`touchline reproduce` with real trainings: a run of another machine, its copy byte for byte, and other kernels."""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import command, environment, touchline
from tests.api.kills import kill_everything, wait_for_steps

from touchline.core.files import sha256_file

pytestmark = pytest.mark.slow
FINISHED = Path(__file__).resolve().parents[1] / "fixtures" / "written-by-0.1.0" / "finished"
RUN = "1M_rank4"


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A reproduction of the fixture's run, which is itself a finished run to reproduce."""

    root: Path
    env: dict[str, str]
    answer: dict[str, Any]
    before: Mapping[str, str]
    after: Mapping[str, str]


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Reproduced:
    root = tmp_path_factory.mktemp("reproduce")
    original = Path(shutil.copytree(FINISHED, root / "finished"))
    env = environment(models, root / "cache")
    before = files(original)
    done = touchline("reproduce", str(original), "--run", RUN, "--out", str(root / "first"), "--json", env=env)
    assert done.returncode == 0, done.stderr
    return Reproduced(root, env, json.loads(done.stdout), before, files(original))


def test_a_run_of_another_machine_is_reproduced_beside_it(first: Reproduced) -> None:
    """An earlier version trained it, on a processor that is perhaps not this one."""
    assert first.answer["outcome"] in ("byte-equal", "within tolerance")
    assert first.after == first.before
    assert first.answer["folder"] == str(first.root / "first" / RUN)
    assert {each["what"] for each in first.answer["losses"]} == {"training loss", "validation loss"}
    assert first.answer["scores"][0]["items"] == 20


def test_a_killed_reproduction_is_resumed_and_byte_equal(first: Reproduced) -> None:
    words = ["reproduce", str(first.root / "first"), "--run", RUN, "--out", str(first.root / "second")]
    killed = subprocess.Popen(
        command(*words), env=first.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    wait_for_steps(killed, first.root / "second" / RUN, 2)
    kill_everything(killed)  # type: ignore[arg-type]
    done = touchline(*words, env=first.env)
    assert done.returncode == 0, done.stderr
    assert f"{RUN}: byte-equal" in done.stdout
    metrics = first.root / "second" / RUN / "metrics.jsonl"
    trained = metrics.stat().st_mtime_ns
    again = touchline(*words, "--json", env=first.env)
    assert json.loads(again.stdout)["outcome"] == "byte-equal"
    assert metrics.stat().st_mtime_ns == trained


@pytest.mark.thorough
def test_another_library_gives_close_numbers(first: Reproduced) -> None:
    """A torch of another version is recorded, and this one computes without vector instructions, as others may."""
    if platform.machine() != "x86_64":
        pytest.skip("the kernels without vector instructions are the usual ones here")
    other = Path(shutil.copytree(first.root / "first", first.root / "other"))
    metrics = other / RUN / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"torch":"', '"torch":"1.', 1))
    env = first.env | {"ATEN_CPU_CAPABILITY": "default"}
    done = touchline("reproduce", str(other), "--run", RUN, "--json", env=env)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "within tolerance"
    assert [each["what"] for each in answer["environment"]] == ["torch"]
    assert answer["weights"]["equal"] == 0
    assert 0 < answer["weights"]["relative"] < 1e-2
    assert all(check["found"] <= check["allowed"] for check in answer["checks"])
    assert Path(answer["folder"]).samefile(other / "reproduced" / RUN / RUN)
