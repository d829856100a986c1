"""Tiny models and adapters, made once for all tests of this folder; one thread, since the work is tiny.

Heavy packages are imported by the fixtures alone: this file is also read where torch is not installed.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny_model import build_tiny_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Six adapters of that base, more than are kept in memory."""
    from tests.evaluate.tiny_evaluation import make_adapter

    root = tmp_path_factory.mktemp("adapters")
    return tuple(make_adapter(tiny_base, root / f"a{seed}", rank=2 + seed, seed=seed) for seed in range(6))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.evaluate.tiny_evaluation import make_experiment

    return make_experiment(tmp_path_factory.mktemp("prepared") / "sp ace", items=6)


@pytest.fixture
def experiment(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "experiment"))
