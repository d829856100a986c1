"""A chain of two stages on the real model: the proof of its lineage, and what stops it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import touchline
from tests.train.chains import other_adapter, rewrite_records, swap_adapter

from touchline.core.status import EXIT_LINEAGE, EXIT_PARENT_NOT_READY
from touchline.data.create import create_capitalization

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

MODEL = "SmolLM2-135M-Instruct"
EASY, HARD = "135M_rank8_easy", "135M_rank8_hard"
EXPERIMENT = """\
name: chain
question: Do short words first help with long words?
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: data/words_10L_60P_100.json}
train:
  {global_batch_size: 8, micro_batch_size: 8, packed: false, max_seq_len: 128, learning_rate: 1e-3, lora: {rank: 8}}
stages:
  - {name: easy, data: {path: data/words_5L_60P_100.json}}
  - {name: hard, parent: easy, continue: adapter}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a command: two threads, the real model from where `touchline models get` puts it."""
    from touchline.data.user_config import load_settings
    from touchline.run.model_download import get_model

    settings = load_settings()
    get_model(MODEL, settings)
    return os.environ | {
        "TOUCHLINE_MODELS_DIR": str(settings.models_dir),
        "TOUCHLINE_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "2",
    }


def script(folder: Path, run: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`bash finetune.slurm` in a run's folder, as a person does it."""
    return subprocess.run(
        ["bash", "finetune.slurm"], cwd=folder / run, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The experiment, prepared, with its first stage trained; not to be written to."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    for length in (5, 10):
        create_capitalization(folder / "data", word_length=length, num_words=100, train_fraction=0.6, seed=1)
    for verb in ("plan", "prepare"):
        done = touchline(verb, str(folder), env=environment)
        assert done.returncode == 0, done.stderr
    done = script(folder, HARD, environment)
    assert done.returncode == EXIT_PARENT_NOT_READY, done.stderr
    done = script(folder, EASY, environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(easy: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(easy, tmp_path / "chain"))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_lineage_of_a_real_chain_is_proved(folder: Path, environment: dict[str, str]) -> None:
    """The loss before the first step, on the parent's items, is the parent's last one: printed side by side."""
    done = script(folder, HARD, environment)
    assert done.returncode == 0, done.stderr
    lineage, parent = read(folder / HARD / "lineage.json"), read(folder / EASY / "training.json")
    loss = lineage["loss"]
    assert loss["recorded"] == parent["final_validation_loss"]
    assert abs(loss["found"] / loss["recorded"] - 1) <= 1e-3
    assert lineage["adapter_sha256"] == lineage["marker_sha256"] == lineage["record_sha256"] == parent["adapter_sha256"]
    assert lineage["file_tensors_sha256"] == lineage["model_tensors_sha256"]
    assert lineage["trainable_parameters"] == lineage["parent_parameters"] == 2_442_240
    assert read(folder / HARD / "training.json")["adapter_sha256"] != parent["adapter_sha256"]


def test_a_swapped_adapter_stops_a_real_chain(folder: Path, environment: dict[str, str]) -> None:
    """Where all records were forged, by its loss."""
    checkpoint = folder / EASY / "epoch_0"
    swap_adapter(checkpoint, other_adapter(checkpoint, zeros=False))
    rewrite_records(folder / EASY, checkpoint)
    done = script(folder, HARD, environment)
    assert done.returncode == EXIT_LINEAGE, done.stderr
    assert "validation items is" in done.stderr
    assert not (folder / HARD / "training.json").exists()
    assert not list((folder / HARD).glob("epoch_*"))
