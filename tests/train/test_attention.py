"""Attention and kernels, where a training begins: what is asked for is used, or refused before anything is loaded."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.tiny_model import write_tiny_words
from tests.train.tiny_run import make_config, tiny_train, write_config
from tests.train.tiny_sizes import SIZES, made_examples, made_model
from transformers import AutoConfig, Gemma3TextConfig, MistralConfig, PretrainedConfig, Qwen3Config

import touchline.backends
from touchline.backends.peft.layout import PADDED, BatchLayout, arrange
from touchline.core.errors import HostError, InputError
from touchline.data.metrics_file import read_metrics
from touchline.data.packing.forecast import IsolationCheck
from touchline.experiment.training import TrainConfig
from touchline.plan.local.packing import check_isolation
from touchline.train import leaks
from touchline.train.attempt import Stop
from touchline.train.hf_inputs import require_kernels
from touchline.train.machine import select_device
from touchline.train.process import run_training
from touchline.train.target_loss import TargetLoss, sliding_window


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


WINDOW = 8
EXAMPLES = made_examples([(length, 3) for length in (3, 14, 9, 20)])
"""Some longer than the window, some within it."""
THREE_LAYERS = SIZES | {"num_hidden_layers": 3, "sliding_window": WINDOW}
TYPES = ["sliding_attention", "sliding_attention", "full_attention"]
MODELS: dict[str, PretrainedConfig] = {
    "gemma3": Gemma3TextConfig(**THREE_LAYERS, layer_types=TYPES),
    "mistral": MistralConfig(**THREE_LAYERS),
    "qwen3": Qwen3Config(**THREE_LAYERS, use_sliding_window=True, layer_types=TYPES),
}


def build(config: PretrainedConfig, attention: str) -> TargetLoss:
    model = made_model(config, ["q_proj", "v_proj"], attention=attention, trained=False)
    model.eval()
    return TargetLoss(model, select_device("float32"))


def means(target_loss: TargetLoss, layout: BatchLayout) -> np.ndarray:
    rows = arrange(EXAMPLES, layout)
    with torch.no_grad():
        losses = target_loss(rows).double().numpy()
    return np.bincount(rows.owners, losses) / np.bincount(rows.owners)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_shared_rows_attend_within_the_window(name: str, attention: str) -> None:
    target_loss = build(MODELS[name], attention)
    alone = means(target_loss, PADDED)
    for layout in (BatchLayout(row_tokens=96), BatchLayout(row_tokens=96, share_prefix=True)):
        assert means(target_loss, layout) == pytest.approx(alone, abs=1e-5)
    target_loss._window = None
    assert np.abs(means(target_loss, BatchLayout(row_tokens=96)) - alone).max() > 1e-3


def test_the_window_is_read_from_the_configuration() -> None:
    assert sliding_window(MODELS["gemma3"]) == (WINDOW, False)
    assert sliding_window(MODELS["mistral"]) == (WINDOW, True)
    assert sliding_window(Qwen3Config(**THREE_LAYERS)) == (None, False)
    assert sliding_window(MistralConfig(**THREE_LAYERS | {"sliding_window": None})) == (None, False)


def config_of(model_type: str, **changes: object) -> dict[str, object]:
    """The architecture's default configuration, as its config.json would be."""
    content: dict[str, object] = json.loads(AutoConfig.for_model(model_type).to_json_string(use_diff=False))
    return {**content, "model_type": model_type, **changes}


def isolated(check: IsolationCheck) -> dict[str, bool]:
    """Which ways keep documents apart."""
    return {way.name: way.isolated for way in check.ways}


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2", "phi3"])
def test_attention_obeys_masks_and_positions_but_not_a_mask_of_ones(model_type: str) -> None:
    assert isolated(leaks.check(config_of(model_type))) == {
        "block mask": True,
        "positions": True,
        "positions and a mask of ones": False,
        "nothing": False,
    }


@pytest.mark.parametrize("model_type", ["mamba2", "qwen3_next"])
def test_state_that_runs_along_the_row_leaks_whatever_the_mask_says(model_type: str) -> None:
    assert set(isolated(leaks.check(config_of(model_type))).values()) == {False}


def test_a_leak_is_far_from_rounding() -> None:
    ways = {way.name: way for way in leaks.check(config_of("llama")).ways}
    good, bad = ways["block mask"], ways["nothing"]
    assert good.leak is not None
    assert bad.leak is not None
    assert good.leak < leaks.TOLERANCE_NATS / 10
    assert bad.leak > leaks.TOLERANCE_NATS * 1000


def test_the_part_that_writes_text_is_tried_of_a_model_of_several_parts() -> None:
    inner = config_of("llama")
    assert leaks.check({"model_type": "some_vision_model", "text_config": inner}).model_type == "llama"


@pytest.mark.parametrize("content", [{"model_type": "no_such_model"}, {}, {"model_type": "bert_of_nobody", "a": [1]}])
def test_what_is_no_architecture_is_a_fault_in_words(content: dict[str, object]) -> None:
    with pytest.raises(InputError, match="no small model"):
        leaks.check(content)


def test_the_program_answers_and_its_faults_become_words() -> None:
    assert isolated(check_isolation(config_of("llama")))["block mask"]
    with pytest.raises(InputError, match="no_such_model"):
        check_isolation({"model_type": "no_such_model"})
