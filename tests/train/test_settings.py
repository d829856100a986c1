"""Settings of a training: quantized bases, optimizers, kinds and initial weights of adapters, noise, smoothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tests.cases import parametrize
from tests.train.interruptions import EVERY_STEP, StopAfter, assert_same
from tests.train.test_run import library_loss
from tests.train.tiny_run import easy_config, hard_config, make_config, tiny_train, train, write_config
from torch import nn

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.peft.layout import PADDED, arrange
from touchline.backends.registry import get_backend, memory_coefficients
from touchline.backends.run_config import RunConfig
from touchline.core.catalog import RenderedExample
from touchline.core.errors import HostError, InputError, LineageError
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.data.machine import DtypeChoice
from touchline.data.metrics_file import read_metrics
from touchline.data.shapes import load_shape
from touchline.estimate.disk import saved_adapter_bytes
from touchline.estimate.parts import state_bytes, weight_bytes
from touchline.evaluate.weights import ActiveAdapter, Weights
from touchline.experiment.training import CheckpointConfig, LoraConfig, TrainConfig
from touchline.train.attempt import Stop
from touchline.train.inputs import load_inputs
from touchline.train.machine import select_device
from touchline.train.model import attach_adapter, load_base, trainable
from touchline.train.optimizers import optimizer_for
from touchline.train.process import run_training
from touchline.train.target_loss import TargetLoss, noise_scale

BASE_KEPT = (
    {"lora": LoraConfig(rank=4, dora=True, rslora=True), "optimizer": "adafactor"},
    {"lora": LoraConfig(rank=4, init="gaussian"), "optimizer": "muon"},
    {"lora": LoraConfig(rank=64), "optimizer": "adamw_8bit", "neftune_alpha": 5.0, "label_smoothing": 0.1},
    {"lora": LoraConfig(rank=4, init="pissa", rslora=True)},
    {"lora": LoraConfig(rank=4, init="olora", dropout=0.1), "optimizer": "paged_adamw_8bit"},
)
"""Settings whose adapters are for the base as it is."""
QUANTIZED = (
    {"quantization": "nf4", "lora": LoraConfig(rank=4, dora=True), "gradient_checkpointing": True},
    {"quantization": "nf4", "base_dtype": "bfloat16"},
    {"quantization": "int8", "base_dtype": "bfloat16"},
)


def named(changes: dict[str, object]) -> str:
    words = [str(changes.get(key, "")) for key in ("quantization", "optimizer", "base_dtype")]
    lora = changes.get("lora")
    if isinstance(lora, LoraConfig):
        words += [lora.init, "dora" * lora.dora, "rslora" * lora.rslora]
    return "-".join(word for word in words if word)


def configured(model: Path, words: Path, **changes: object) -> RunConfig:
    checkpoint = CheckpointConfig(resume_minutes=EVERY_STEP)
    return make_config(model, words, tiny_train(checkpoint=checkpoint, **changes))


@pytest.mark.parametrize("changes", [*BASE_KEPT, *QUANTIZED], ids=named)
def test_trainings_resume_by_bits(tiny_model: Path, words: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    """Stopped after some micro-batches and resumed: the adapter and every recorded loss of an undisturbed training. Its
    checkpoint on the original base gives the recorded validation loss: in PEFT, and in the evaluation, where it is
    merged or computed beside the base."""
    config = configured(tiny_model, words, **changes)
    undisturbed = write_config(tmp_path / "undisturbed" / "run", config)
    assert run_training(config, undisturbed, Stop())
    stopped = write_config(tmp_path / "stopped" / "run", config)
    assert not run_training(config, stopped, StopAfter(left=8))
    assert run_training(config, stopped, Stop())
    assert_same(stopped, undisturbed)
    losses = [row.loss for row in read_metrics(undisturbed / "metrics.jsonl").validations]
    assert losses[-1] < losses[0] - 0.1
    if changes in BASE_KEPT:
        checkpoint = undisturbed / "epoch_1"
        loaded = AutoPeftModelForCausalLM.from_pretrained(str(checkpoint))
        assert library_loss(loaded, config) == pytest.approx(losses[-1], rel=1e-4)
        weights = Weights(config.model.path, DtypeChoice(dtype="float32", reason="a test"), torch.device("cpu"))
        base = library_loss(weights.model, config)
        for merged in (True, False):
            weights.activate(ActiveAdapter(folder=checkpoint, merged=merged))
            assert library_loss(weights.model, config) == pytest.approx(losses[-1], rel=1e-4)
            weights.activate(None)
            assert library_loss(weights.model, config) == base


def test_the_saved_state_of_an_8_bit_optimizer_has_8_bits(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    """Matrices from 4,096 elements on; smaller ones keep float32 moments, as bitsandbytes has it."""
    config = configured(tiny_model, words, lora=LoraConfig(rank=64), optimizer="adamw_8bit")
    folder = write_config(tmp_path / "run", config)
    assert not run_training(config, folder, StopAfter(left=8))
    (saved,) = folder.glob("resume/step_*/optimizer.safetensors")
    moments = {name: value for name, value in load_file(saved).items() if name.endswith("::state1")}
    assert {(v.numel() >= 4096, v.dtype) for v in moments.values()} == {(True, torch.uint8), (False, torch.float32)}
    assert read_metrics(folder / "metrics.jsonl").attempts[0].optimizer == "AdamW, 8-bit"


def test_a_4_bit_base_has_the_gradient_of_its_rounded_weights(tiny_model: Path, words: Path) -> None:
    """The loss and gradient of a base whose weights were rounded to 4 bits and stored as float32."""
    import bitsandbytes

    config = configured(tiny_model, words, quantization="nf4")
    machine = select_device("float32")
    rows = arrange(load_inputs(config, words.parent).train[:4], PADDED)
    quantized = load_base(config, machine, "sdpa")
    rounded = load_base(configured(tiny_model, words), machine, "sdpa")
    for name, module in quantized.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            rounded.get_submodule(name).weight.data.copy_(weight)
    found = []
    for base in (quantized, rounded):
        model = attach_adapter(base, config)
        loss = TargetLoss(model, machine)(rows).mean()
        loss.backward()
        found.append((loss.item(), torch.cat([each.grad.flatten() for each in trainable(model).values()])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


def test_noise_depends_on_the_length_of_each_example(tiny_model: Path, words: Path) -> None:
    """Uniform in alpha / sqrt(L d), for each example of a row by its own length; none in validation or padding."""
    alpha, machine = 5.0, select_device("float32")
    examples = [RenderedExample(prompt_ids=tuple(range(3, 3 + count)), answer_ids=(7, 8)) for count in (14, 7)]
    rows = arrange(examples, PADDED)
    scale = noise_scale(rows, alpha)
    assert scale[0, 0] == pytest.approx(alpha / 16**0.5)
    assert scale[1, :8].tolist() == pytest.approx([alpha / 9**0.5] * 8)
    assert not scale[1, 8:].any()
    config = configured(tiny_model, words)
    model = attach_adapter(load_base(config, machine, "sdpa"), config)
    seen: list[torch.Tensor] = []
    noisy = TargetLoss(model, machine, neftune_alpha=alpha)
    embedding = model.get_base_model().get_input_embeddings()
    embedding.register_forward_hook(lambda module, arguments, output: seen.append(output.detach()))
    torch.manual_seed(1)
    for mode in (model.train, model.eval):
        mode()
        noisy(rows)
    noise = (seen[0] - seen[1])[0].flatten()
    limit = alpha / (16 * 48) ** 0.5
    assert noise.abs().max() <= limit + 1e-6
    assert noise.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
    torch.testing.assert_close(seen[1], nn.functional.embedding(torch.from_numpy(rows.token_ids), embedding.weight))


def test_smoothing_is_in_the_training_loss_only(tiny_model: Path, words: Path) -> None:
    """(1 - e) times the loss of the label plus e times the mean loss of all tokens; validation has neither."""
    config, machine = configured(tiny_model, words), select_device("float32")
    model = attach_adapter(load_base(config, machine, "sdpa"), config)
    rows = arrange(load_inputs(config, words.parent).train[:3], PADDED)
    logits: list[torch.Tensor] = []
    model.get_base_model().get_output_embeddings().register_forward_hook(
        lambda module, arguments, output: logits.append(output.detach()[0])
    )
    smoothed, plain = TargetLoss(model, machine, label_smoothing=0.2), []
    for mode in (model.train, model.eval):
        mode()
        plain.append(smoothed(rows).detach())
    logs = -logits[0].log_softmax(-1)
    label = logs[np.arange(len(rows.labels)), rows.labels]
    torch.testing.assert_close(plain[1], label)
    torch.testing.assert_close(plain[0], 0.8 * label + 0.2 * logs.mean(-1))


def test_without_bitsandbytes_it_is_named(tiny_model: Path, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quantized base and an 8-bit optimizer say what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HostError, match="quantization: int8 needs accelerate and bitsandbytes") as error:
        load_base(configured(tiny_model, words, quantization="int8"), select_device("float32"), "sdpa")
    assert "pip install" in str(error.value.hint)
    parameters = {"a": nn.Parameter(torch.zeros(2, 2))}
    with pytest.raises(HostError, match="optimizer: adamw_8bit needs"):
        optimizer_for(parameters, TrainConfig(learning_rate=2e-4, optimizer="adamw_8bit"))


def test_an_adapter_that_changes_the_base_when_loaded_is_refused(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    """As PEFT saves PiSSA without conversion: other adapters of the same base would be scored wrongly."""
    config = configured(tiny_model, words, lora=LoraConfig(rank=4, init="pissa"))
    model = attach_adapter(load_base(config, select_device("float32"), "sdpa"), config)
    model.save_pretrained(tmp_path)
    weights = Weights(config.model.path, DtypeChoice(dtype="float32", reason="a test"), torch.device("cpu"))
    with pytest.raises(InputError, match="pissa"):
        weights.activate(ActiveAdapter(folder=tmp_path, merged=False))


@parametrize(
    "changes",
    {"quantization": "nf4", "optimizer": "adamw_8bit", "lora": LoraConfig(rank=64)},
    {"quantization": "int8", "optimizer": "adafactor"},
    {"optimizer": "muon"},
    {"lora": LoraConfig(rank=4, dora=True), "optimizer": "adafactor"},
    ids=named,
)
def test_estimates_are_real_sizes(tiny_model: Path, words: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    """The loaded base, the optimizer's state and the adapter's file."""
    config = configured(tiny_model, words, base_dtype="bfloat16", **changes)
    machine = select_device("bfloat16")
    target = TargetMachine(
        name="cpu", kind="cpu", memory=Missing(missing="a test"), base_dtype="bfloat16", count=1, source="a test"
    )
    shape = load_shape(config.model.path, tiny_model.parent)
    setup = get_backend("peft").setup(config.train, shape, target, 64)
    base = load_base(config, machine, "sdpa")
    held = sum(each.nbytes for each in base.parameters())
    for module in base.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            held += state.absmax.nbytes + state.state2.absmax.nbytes
        scales = getattr(getattr(module, "weight", None), "SCB", None)
        held += 0 if scales is None else scales.nbytes
    coefficients = memory_coefficients("peft")
    assert isinstance(coefficients, MemoryCoefficients)
    assert weight_bytes(setup, coefficients) == pytest.approx(held, rel=0.01)
    folder = write_config(tmp_path / "run", config)
    assert not run_training(config, folder, StopAfter(left=12))
    (optimizer,) = folder.glob("resume/step_*/optimizer.safetensors")
    states = [value for value in load_file(optimizer).values() if value.ndim]
    assert state_bytes(setup, 4) == pytest.approx(sum(value.nbytes for value in states), rel=0.01)
    assert run_training(config, folder, Stop())
    assert saved_adapter_bytes(setup) == pytest.approx(
        (folder / "epoch_1" / "adapter_model.safetensors").stat().st_size, abs=64
    )


@parametrize(
    "how, first, second",
    ("adapter", {"quantization": "nf4", "lora": LoraConfig(rank=4, dora=True)}, {}),
    ("adapter", {"lora": LoraConfig(rank=4, init="pissa", rslora=True)}, {}),
    ("merge", {"lora": LoraConfig(rank=4, rslora=True)}, {"lora": LoraConfig(rank=3, init="olora", rslora=True)}),
    ids=["nf4 dora", "pissa further", "olora on merged rslora"],
)
def test_a_stage_continues_with_the_settings(
    tiny_model: Path, words: Path, tmp_path: Path, how: str, first: dict[str, object], second: dict[str, object]
) -> None:
    """It begins at the parent's loss, which is proved, and its checkpoint is for the original base."""
    train(tmp_path, easy_config(tiny_model, words, **first))
    config = hard_config(tiny_model, words, how=how, **(first | second))
    folder = train(tmp_path, config)
    proof = json.loads((folder / "lineage.json").read_text())
    assert proof["problems"] == []
    assert proof["loss"]["found"] == pytest.approx(proof["loss"]["recorded"], rel=1e-4)
    if config.train.quantization == "none":
        loaded = AutoPeftModelForCausalLM.from_pretrained(str(folder / "epoch_1"))
        recorded = json.loads((folder / "training.json").read_text())["final_validation_loss"]
        assert library_loss(loaded, config) == pytest.approx(recorded, rel=1e-4)


def test_a_dora_adapter_is_not_merged(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    """The trainer refuses it as the check of the experiment does."""
    changes = {"lora": LoraConfig(rank=4, dora=True)}
    train(tmp_path, easy_config(tiny_model, words, **changes))
    with pytest.raises(LineageError, match="DoRA"):
        train(tmp_path, hard_config(tiny_model, words, how="merge", **changes))
