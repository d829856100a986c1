"""Planning needs the core dependencies only: `make test-core` runs this where torch is not installed.

Where it is installed, each process below refuses to import it, so that both environments show the same.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cases import some

from tools.tiny_model import write_tiny_model

pytestmark = pytest.mark.planning

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "capitalization" / "experiment.yaml"
ABSENT = (
    *("torch", "transformers", "peft", "accelerate", "trl", "datasets", "inspect_ai", "pandas"),
    *("altair", "vl_convert", "pyarrow", "wandb", "tensorboard"),
)
"""What the core dependencies do not bring."""
BLOCK = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
"""A module that is None there cannot be imported, as if it were not installed."""
COMMAND = f"""{BLOCK}
from touchline.cli.main import main
sys.argv[0] = 'touchline'
sys.exit(main())
"""
IMPORT_ALL = f"""{BLOCK}
import importlib, json, pkgutil, touchline
failed, imported = {{}}, []
for module in pkgutil.walk_packages(touchline.__path__, 'touchline.'):
    try:
        importlib.import_module(module.name)
        imported.append(module.name)
    except ImportError as fault:
        failed[module.name] = str(fault)
print(json.dumps([failed, imported]))
"""
MAY_NEED_MORE = ("touchline.train.", "touchline.evaluate.", "touchline.report.charts.", "touchline.cli.watch_app")
"""Programs of their own, the figures of the extra `report`, and the live view of the extra `watch`."""


def _python(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "TOUCHLINE_MODELS_DIR": str(folder / "models"),
        "TOUCHLINE_CACHE_DIR": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _touchline(*arguments: str, folder: Path) -> str:
    done = _python(COMMAND, *arguments, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped example in a folder of its own, with a tiny model under the real one's name, checked and planned."""
    home = tmp_path_factory.mktemp("home")
    write_tiny_model(home / "models" / "SmolLM2-135M-Instruct")
    folder = home / "cap"
    folder.mkdir()
    shutil.copy(EXAMPLE, folder)
    _touchline("data", "create", "capitalization", "--out-dir", "cap/data", folder=home)
    _touchline("check", "cap", folder=home)
    _touchline("plan", "cap", folder=home)
    return folder


@pytest.mark.slow
def test_every_module_that_planning_needs_imports(tmp_path: Path) -> None:
    """Only the programs that train and evaluate, and the figures, need more than the core dependencies."""
    done = _python(IMPORT_ALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    failed, imported = json.loads(done.stdout)
    assert {name: fault for name, fault in failed.items() if not name.startswith(MAY_NEED_MORE)} == {}
    assert len(imported) > 100


def test_a_blocked_module_cannot_be_imported(tmp_path: Path) -> None:
    """Without this, a block that blocks nothing would pass the test above where torch is installed."""
    done = _python(BLOCK + "import torch", folder=tmp_path)
    assert done.returncode == 1
    assert "torch" in done.stderr


@pytest.mark.slow
def test_the_example_is_planned(experiment: Path) -> None:
    """plan.json and runs_plan.md name the runs."""
    plan = json.loads((experiment / "plan.json").read_text(encoding="utf-8"))
    assert [run["name"] for run in plan["runs"]] == ["135M_rank4", "135M_rank64", "135M_base"]
    assert "135M_rank64" in (experiment / "runs_plan.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_evidence_every_estimate_has_an_interval_or_is_missing(experiment: Path) -> None:
    """What a formula gives comes with its interval and its method, and what only a run can tell is missing."""
    plan = json.loads((experiment / "plan.json").read_text(encoding="utf-8"))
    for run in some(plan["runs"]):
        for name in ("train_seconds", "evaluate_seconds", "peak_memory", "disk"):
            figure = run[name]
            if "missing" not in figure:
                assert figure["low"] <= figure["value"] <= figure["high"], (run["name"], name)
                assert figure["low"] < figure["high"], (run["name"], name)
                assert figure["method"], (run["name"], name)


@pytest.mark.slow
def test_planning_again_changes_nothing(experiment: Path) -> None:
    """The same input gives the same bytes, so that drift is a changed plan and nothing else."""
    before = {path: path.read_bytes() for path in experiment.rglob("*") if path.is_file()}
    assert experiment / "plan.json" in before
    _touchline("plan", "cap", folder=experiment.parent)
    assert {path: path.read_bytes() for path in experiment.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_it_is_prepared_looked_at_and_reported(experiment: Path) -> None:
    """What a login node does before and after the jobs: scripts, states, a report of runs that did not start."""
    folder = experiment.parent / "prepared"
    shutil.copytree(experiment, folder)
    _touchline("prepare", "prepared", folder=folder.parent)
    assert (folder / "135M_rank4" / "finetune.slurm").is_file()
    states = json.loads(_touchline("status", "prepared", "--json", folder=folder.parent))
    assert {run["name"]: run["status"] for run in states["runs"]} == dict.fromkeys(
        ("135M_rank4", "135M_rank64", "135M_base"), "prepared"
    )
    _touchline("report", "prepared", folder=folder.parent)
    assert "135M_rank64" in (folder / "RESULTS.md").read_text(encoding="utf-8")
