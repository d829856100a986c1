"""Compiled trainings: the losses, gradients, checkpoints and validation of uncompiled ones, and their shapes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.cases import parametrize
from tests.train.tiny_run import make_config, tiny_train, write_config
from tests.train.tiny_sizes import SIZES, made_examples, made_model
from transformers import Gemma3TextConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from touchline.backends.local.environments import missing_compiler
from touchline.backends.peft.layout import COMPILED_WIDTH, PADDED, BatchLayout, arrange
from touchline.core.errors import HostError, PlanDriftError
from touchline.data.metrics import StepRow
from touchline.data.metrics_file import read_metrics
from touchline.experiment.training import CheckpointConfig, LoraConfig, TrainConfig
from touchline.history.probe import STEPS, ProbedModel, ProbeOutcome, ProbeRequest
from touchline.train import optimizers as compiling
from touchline.train.attempt import Stop
from touchline.train.machine import select_device
from touchline.train.probe_steps import measure
from touchline.train.process import run_training
from touchline.train.target_loss import TargetLoss, add_gradient

MODELS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen": Qwen3Config(**SIZES),
    "gemma": Gemma3TextConfig(**SIZES, sliding_window=16, layer_types=["sliding_attention", "full_attention"]),
}
LAYOUTS = {"padded": PADDED, "packed": BatchLayout(row_tokens=96)}
EXAMPLES = made_examples([(5 + 7 * number, 3) for number in range(6)])
NO_COMPILER = missing_compiler("cpu")


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Capture graphs without a C++ compiler."""
    monkeypatch.setattr(compiling, "COMPILER", "eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def build(config: PretrainedConfig, *, checkpointing: bool = False) -> TargetLoss:
    model = made_model(config, ["q_proj", "v_proj", "down_proj"])
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    return TargetLoss(model, select_device("float32"))


def step(target_loss: TargetLoss, layout: BatchLayout) -> tuple[float, torch.Tensor]:
    target_loss.model.zero_grad(set_to_none=True)
    loss = add_gradient(target_loss, arrange(EXAMPLES, layout), 18)
    grads = [parameter.grad for parameter in target_loss.model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat([grad.flatten() for grad in grads])


def graphs_captured() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("layout", LAYOUTS)
@parametrize("family", "llama", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("qwen", "gemma")))
def test_losses_and_gradients_are_those_of_uncompiled_layers(family: str, layout: str) -> None:
    target_loss = build(MODELS[family])
    loss, gradient = step(target_loss, LAYOUTS[layout])
    names = list(target_loss.model.state_dict())
    compiling.compile_layers(target_loss.model)
    wide = LAYOUTS[layout].for_training(compiled=True, max_seq_len=256)
    compiled_loss, compiled_gradient = step(target_loss, wide)
    # Layers of one kind share one; masks make kinds of attention equal.
    assert graphs_captured() == (2 if (family, layout) == ("gemma", "padded") else 1)
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    assert float((compiled_gradient - gradient).norm() / gradient.norm()) < 1e-4
    assert list(target_loss.model.state_dict()) == names


@pytest.mark.thorough
def test_gradient_checkpointing_goes_with_compiled_layers() -> None:
    target_loss = build(MODELS["llama"], checkpointing=True)
    loss, gradient = step(target_loss, PADDED)
    compiling.compile_layers(target_loss.model)
    compiled_loss, compiled_gradient = step(target_loss, PADDED)
    assert graphs_captured()
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    assert float((compiled_gradient - gradient).norm() / gradient.norm()) < 1e-4


def trained(folder: Path, model: Path, words: Path, settings: TrainConfig) -> Path:
    config = make_config(model, words, settings)
    write_config(folder, config)
    assert run_training(config, folder, Stop())
    return folder


def rows(folder: Path) -> tuple[StepRow, ...]:
    return read_metrics(folder / "metrics.jsonl").steps


@pytest.mark.thorough
@parametrize(
    "settings",
    tiny_train(),
    tiny_train(packed=True, max_seq_len=128),
    tiny_train(checkpoint=CheckpointConfig(save="merged"), epochs=1),
    ids=["padded", "packed", "merged"],
)
def test_compiling_keeps_the_losses(settings: TrainConfig, tiny_model: Path, words: Path, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", tiny_model, words, settings)
    compiled = trained(tmp_path / "compiled", tiny_model, words, replace(settings, compile=True))
    for own, other in zip(rows(compiled), rows(plain), strict=True):
        assert own.loss == pytest.approx(other.loss, abs=1e-5)
        assert own.padded_tokens % COMPILED_WIDTH == 0
        assert own.padded_tokens >= other.padded_tokens
    first, second = (read_metrics(folder / "metrics.jsonl") for folder in (compiled, plain))
    # Before the first step the weights are the same, and nothing compiled scores them.
    assert first.validations[0].loss == second.validations[0].loss
    assert (first.attempts[0].compiled_shapes > 0, second.attempts[0].compiled_shapes) == (True, 0)
    assert 0 < first.attempts[0].compile_seconds <= first.attempts[0].setup_seconds
    (weights,) = (compiled / "epoch_0").glob("*model.safetensors")
    assert list(load_file(weights)) == list(load_file(plain / "epoch_0" / weights.name))


@pytest.mark.thorough
def test_all_shapes_are_compiled(
    tiny_model: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    compile_shapes = compiling.compile_shapes

    def counted(*arguments: object) -> tuple[int, float]:
        found = compile_shapes(*arguments)
        seen.append(graphs_captured())
        return found

    monkeypatch.setattr("touchline.train.setup.compile_shapes", counted)
    trained(tmp_path / "run", tiny_model, words, tiny_train(compile=True))
    assert seen[0] > 0
    assert graphs_captured() == seen[0]


def test_a_state_of_the_uncompiled_run_is_refused(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", tiny_model, words, tiny_train())
    other = replace(make_config(tiny_model, words, tiny_train(compile=True)), run_digest="e" * 64)
    with pytest.raises(PlanDriftError):
        run_training(other, folder, Stop())


@pytest.mark.thorough
def test_a_stopped_compiled_training_resumes(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    settings = tiny_train(compile=True, lora=LoraConfig(rank=4, dropout=0.1))
    whole = trained(tmp_path / "whole", tiny_model, words, settings)
    config = make_config(tiny_model, words, settings)
    folder = write_config(tmp_path / "stopped", config)
    stop = StopAtStep(folder, 3)
    assert not run_training(config, folder, stop)
    assert run_training(config, folder, Stop())
    assert [row.loss for row in rows(folder)] == [row.loss for row in rows(whole)]


class StopAtStep(Stop):
    """Asks to stop when a step is done."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self._metrics, self._step = folder / "metrics.jsonl", step

    @property
    def asked(self) -> bool:
        lines = self._metrics.read_text().splitlines() if self._metrics.exists() else []
        if any(json.loads(line).get("step") == self._step for line in lines):
            self.reason = "SIGTERM"
        return self.reason is not None


def test_a_machine_without_a_compiler_is_refused_before_the_model_is_loaded(
    tiny_model: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "COMPILER", "inductor")
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = make_config(tiny_model, words, tiny_train(compile=True))
    folder = write_config(tmp_path / "run", config)
    with pytest.raises(HostError, match=r"needs a C\+\+ compiler") as refused:
        run_training(config, folder, Stop())
    assert "apt install g++" in str(refused.value.hint)
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.thorough
def test_a_probe_of_a_compiled_training_compiles_before_it_measures(tiny_model: Path) -> None:
    request = ProbeRequest(
        model=ProbedModel(name="Tiny", path=str(tiny_model)),
        train=TrainConfig(learning_rate=2e-4, lora=LoraConfig(rank=4), base_dtype="float32", compile=True),
        seed=1,
        rows=2,
        width=COMPILED_WIDTH,
        label_tokens=6,
    )
    answer = measure(request)
    assert answer.outcome is ProbeOutcome.FITS
    assert graphs_captured()
    assert len(answer.step_seconds) >= STEPS


@pytest.mark.thorough
@pytest.mark.skipif(NO_COMPILER is not None, reason="no C++ compiler here")
def test_inductor_gives_the_same_losses_and_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "COMPILER", "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    target_loss = build(MODELS["llama"])
    loss, gradient = step(target_loss, PADDED)
    compiling.compile_layers(target_loss.model)
    compiled_loss, compiled_gradient = step(target_loss, PADDED.for_training(compiled=True, max_seq_len=256))
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    assert float((compiled_gradient - gradient).norm() / gradient.norm()) < 1e-4
