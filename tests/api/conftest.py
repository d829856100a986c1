"""A finished experiment, a trained one made by hand, and the settings of a user who has the tiny model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.finished import finished
from tests.api.folders import environment, touchline
from tests.results.conftest import trained, trained_once

from tools.tiny_model import write_tiny_model
from touchline.data.user_config import UserConfig

__all__ = ["finished", "trained", "trained_once"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models_dir with the tiny model; not to be written to."""
    folder = tmp_path_factory.mktemp("here") / "models"
    write_tiny_model(folder / "Tiny-1M-Instruct")
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, models: Path) -> UserConfig:
    """Settings with the tiny model, a cache and an empty history."""
    base = tmp_path_factory.mktemp("here")
    return UserConfig(models_dir=models, cache_dir=base / "cache", history_dir=base / "history")


@pytest.fixture
def env(models: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a command with the tiny model, and a cache and a history of its own."""
    return environment(models, tmp_path / "cache", tmp_path / "history")


@pytest.fixture
def call(env: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`touchline ...` of such a user, in the test's folder."""
    return lambda *arguments: touchline(*map(str, arguments), env=env, cwd=tmp_path)
