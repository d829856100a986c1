"""Planning needs the core dependencies only: `make test-core` runs this where torch is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.tiny_model import write_tiny_model

pytestmark = pytest.mark.planning

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "capitalization" / "experiment.yaml"
PROGRAM = """\
import sys
from touchline.cli.main import main
sys.argv[0] = 'touchline'
try:
    main()
except SystemExit as end:
    if end.code:
        raise
loaded = {'torch', 'transformers', 'peft', 'accelerate', 'trl', 'inspect_ai', 'altair', 'pyarrow'} & set(sys.modules)
assert not loaded, loaded
"""


def _touchline(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "TOUCHLINE_MODELS_DIR": str(folder / "models"),
        "TOUCHLINE_CACHE_DIR": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The shipped example in a folder of its own, with a tiny model under the real one's name; not yet planned."""
    write_tiny_model(tmp_path / "models" / "SmolLM2-135M-Instruct")
    folder = tmp_path / "cap"
    folder.mkdir()
    shutil.copy(EXAMPLE, folder)
    made = _touchline("data", "create", "capitalization", "--out-dir", "cap/data", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    return folder


def test_the_example_is_planned_without_a_framework(experiment: Path) -> None:
    """Exit code 0, plan.json and runs_plan.md written, and no framework loaded on the way."""
    done = _touchline("plan", "cap", folder=experiment.parent)
    assert done.returncode == 0, done.stderr
    plan = json.loads((experiment / "plan.json").read_text(encoding="utf-8"))
    assert [run["name"] for run in plan["runs"]] == ["135M_rank4", "135M_rank64", "135M_base"]
    assert "135M_rank64" in (experiment / "runs_plan.md").read_text(encoding="utf-8")


def test_without_evidence_every_estimate_has_an_interval_or_is_missing(experiment: Path) -> None:
    """What a formula gives comes with its interval and its method, and what only a run can tell is missing."""
    done = _touchline("plan", "cap", folder=experiment.parent)
    plan = json.loads((experiment / "plan.json").read_text(encoding="utf-8"))
    assert plan["runs"]
    for run in plan["runs"]:
        for name in ("train_seconds", "evaluate_seconds", "peak_memory", "disk"):
            figure = run[name]
            if "missing" not in figure:
                assert figure["low"] <= figure["value"] <= figure["high"], (run["name"], name)
                assert figure["low"] < figure["high"], (run["name"], name)
                assert figure["method"], (run["name"], name)
    assert done.returncode == 0


def test_planning_again_changes_nothing(experiment: Path) -> None:
    """The same input gives the same bytes, so that drift is a changed plan and nothing else."""
    assert _touchline("plan", "cap", folder=experiment.parent).returncode == 0
    before = {path: path.read_bytes() for path in experiment.rglob("*") if path.is_file()}
    assert experiment / "plan.json" in before
    assert _touchline("plan", "cap", folder=experiment.parent).returncode == 0
    assert {path: path.read_bytes() for path in experiment.rglob("*") if path.is_file()} == before
