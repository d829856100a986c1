"""One trained experiment for all tests of agents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.agent.tasks import TEXT
from tests.api.folders import touchline, words_experiment


@pytest.fixture(scope="session")
def home(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a finished experiment, a copy of it, and the same one before it was planned."""
    root = tmp_path_factory.mktemp("skills")
    folder, environment = words_experiment(root, tiny_model, TEXT, n_train=16)
    environment["TOUCHLINE_HISTORY_DIR"] = str(root / "history")
    done = touchline("run", str(folder), "--no-probe", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["runs"]) == 3
    shutil.copytree(folder, root / "other")
    (root / "new").mkdir()
    for name in ("experiment.yaml", "words.json"):
        shutil.copy(folder / name, root / "new")
    return root, environment
