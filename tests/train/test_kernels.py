"""Attention and kernels, where a training begins: what is asked for is used, or refused before anything is loaded."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml
from tests.tiny_model import write_tiny_words
from tests.train.tiny_run import make_config, tiny_train, write_config

import touchline.backends
from touchline.core.errors import HostError
from touchline.data.metrics_file import read_metrics
from touchline.experiment.experiment import TrainConfig
from touchline.train.hf_inputs import require_kernels
from touchline.train.run import Stop, run_training


def test_the_attention_that_is_asked_for_is_used(tiny_model: Path, tmp_path: Path) -> None:
    """With equal losses; on a CPU `auto` is the plain one for short rows."""
    words = write_tiny_words(tmp_path / "words.json", 16, 4, 4)
    losses = {}
    for wanted in ("auto", "sdpa"):
        config = make_config(tiny_model, words, tiny_train(attention=wanted, epochs=1))
        folder = write_config(tmp_path / wanted, config)
        assert run_training(config, folder, Stop())
        found = read_metrics(folder / "metrics.jsonl")
        losses[found.attempts[0].attention] = [row.loss for row in found.steps]
    assert losses.keys() == {"eager", "sdpa"}
    assert losses["sdpa"] == pytest.approx(losses["eager"], abs=1e-4)


def test_kernels_for_gpus_are_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where there is one, without the package; with both, training begins."""
    flash = TrainConfig(backend="trl", attention="flash_attention_2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(HostError, match=r"train\.attention: flash_attention_2 needs a GPU") as error:
        require_kernels(flash)
    assert error.value.hint == "train.attention=sdpa"
    require_kernels(TrainConfig())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(HostError, match="needs flash-attn, not installed here") as error:
        require_kernels(flash)
    assert str(error.value.hint).startswith("pip install flash-attn")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    require_kernels(flash)


def test_the_recorder_of_other_trainers_refuses_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-Factory and axolotl leave out what is not installed, with a warning."""
    run = {"train": {"kernels": "liger"}, "batches": {"steps": 1, "steps_per_epoch": 1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    monkeypatch.chdir(tmp_path)
    recorder = runpy.run_path(str(Path(touchline.backends.__file__).parent / "hf_recorder.py.txt"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(RuntimeError, match=r"liger-kernel is not installed in .*: .* -m pip install liger-kernel"):
        recorder["require_kernels"]()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RuntimeError, match="liger-kernel needs a GPU"):
        recorder["require_kernels"]()
