"""A finished experiment, and copies of it in a folder whose name is no UTF-8 and means something to SLURM."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.api.folders import environment, make_experiment, tiny_settings, touchline

NAME = os.fsdecode(b"caf\xe9 %j")
RUN = "1M_rank2"


@pytest.fixture(scope="session")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of one run and its control, done from the plan to the report."""
    root = tmp_path_factory.mktemp("hostile")
    tiny_settings(root, tiny_model)
    folder = make_experiment(root / "finished", ranks="[2]", n_train=32, n_test=8)
    done = touchline(
        "run", str(folder), "train.epochs=1", "--no-probe", env=environment(root / "models", root / "cache")
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for one test, with a history and caches of its own."""
    monkeypatch.setenv("TOUCHLINE_MODELS_DIR", str(finished.parent / "models"))
    monkeypatch.setenv("TOUCHLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(tmp_path / "history"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "160")
    folder = tmp_path / NAME
    shutil.copytree(finished, folder)
    return folder
