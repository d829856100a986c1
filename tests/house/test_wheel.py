"""The built wheel: it installs without torch, and three commands lead from it to a plan of one's own data to review.

The commands are `pip install`, `touchline init` and `touchline plan`. pip builds with hatchling, which it takes from
its index, as it does when the environments are made.
"""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.docs import ROOT
from tools.tiny_model import write_tiny_model

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="`make test-core` runs it, without torch"),
]
WORDS = ("river", "stone", "cloud", "ember", "maple", "otter", "pearl", "quartz")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this folder."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("touchline-*.whl")
    return made


def test_it_holds_what_the_program_reads_and_nothing_that_was_made_on_the_way(wheel: Path) -> None:
    """Templates, pages and examples as in the source tree, the manual page, and no caches."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src"
    source = {
        path.relative_to(package).as_posix()
        for path in (package / "touchline").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("touchline/")} == source
    assert any(name.endswith(".data/data/share/man/man1/touchline.1") for name in names)


def test_three_commands_lead_to_a_plan_to_review(wheel: Path, tmp_path: Path) -> None:
    """Without torch, from a CSV of one's own and a model on this machine."""
    lines = [f"{word} {number},{word.upper()} {number}" for word in WORDS for number in range(20)]
    (tmp_path / "words.csv").write_text("text,answer\n" + "\n".join(lines) + "\n")
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    site = tmp_path / "site"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PYTHONPATH": str(site),
        "TOUCHLINE_MODELS_DIR": str(tmp_path / "models"),
        "TOUCHLINE_CACHE_DIR": str(tmp_path / "cache"),
        "TOUCHLINE_HISTORY_DIR": str(tmp_path / "history"),
    }

    def run(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # The dependencies are those of this environment, which has no more than the core's.
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    touchline = str(site / "bin" / "touchline")
    summary = run(touchline, "init", "mine", "--data", "words.csv", "--yes")
    shown = run(touchline, "plan", "mine")

    plan = json.loads((tmp_path / "mine" / "plan.json").read_text())
    assert len(plan["runs"]) > 1
    assert all(each["name"] in (tmp_path / "mine" / "runs_plan.md").read_text() for each in plan["runs"])
    assert shown in summary
    where = run(sys.executable, "-c", "import touchline; print(touchline.__file__)")
    assert where.startswith(str(site))
