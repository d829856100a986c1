"""A planned experiment whose runs look trained, for the tests that verify checkpoints and clean up."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.api.folders import make_experiment
from tests.results.made_checkpoints import write_trained_run

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan


@dataclass(frozen=True, slots=True)
class Trained:
    root: Path
    plan: Plan
    base: Path


def make_trained(folder: Path) -> Trained:
    """Two runs of two epochs, each sound, and a control."""
    base = write_tiny_model(folder / "models" / "Tiny-1M-Instruct")
    root = make_experiment(folder / "tiny")
    settings = UserConfig(models_dir=folder / "models", cache_dir=folder / "cache", history_dir=folder / "history")
    plan = api.plan(root, settings).plan
    for number, run in enumerate(plan.runs):
        if run.train is not None:
            write_trained_run(root, plan, run, seed=number)
    return Trained(root, plan, base)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(trained_once: Trained, tmp_path: Path) -> Trained:
    shutil.copytree(trained_once.root, tmp_path / "tiny", symlinks=True)
    return Trained(tmp_path / "tiny", trained_once.plan, trained_once.base)
