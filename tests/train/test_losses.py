"""Logits of a chunk of label positions at a time give the losses and gradients of all logits at once."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.train.tiny_sizes import SIZES, made_examples, made_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
)

from touchline.backends.peft.layout import LOGITS_AT_ONCE, PADDED, BatchLayout, SequenceBatch, arrange, label_chunk
from touchline.core.catalog import RenderedExample
from touchline.core.errors import InputError
from touchline.train import blockwise as chunked_loss
from touchline.train.machine import select_device
from touchline.train.model import trainable
from touchline.train.setup import SideBySide
from touchline.train.target_loss import MicroBatchGradient, TargetLoss, add_gradient, scoring

VOCABULARY = SIZES["vocab_size"]
MODELS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES),
    # A soft cap, a divisor and a factor that the logits pass behind the head.
    "gemma2": Gemma2Config(**SIZES, final_logit_softcapping=2.0),
    "granite": GraniteConfig(**SIZES, logits_scaling=3.0),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
}
LAYOUTS = [PADDED, BatchLayout(row_tokens=64), BatchLayout(row_tokens=64, share_prefix=True)]


def examples() -> list[RenderedExample]:
    return made_examples([(3, 5), (9, 2), (5, 7)])


def build(
    config: PretrainedConfig, targets: tuple[str, ...] = ("q_proj", "down_proj"), dtype: torch.dtype = torch.float32
) -> PeftModel:
    return made_model(config, targets, attention="eager", dtype=dtype)


def losses_and_gradient(target_loss: TargetLoss, layout: BatchLayout) -> tuple[Tensor, Tensor]:
    """Losses of the labels, and the gradient of a mean that weighs them differently."""
    target_loss.model.zero_grad()
    losses = target_loss(arrange(examples(), layout))
    (losses * torch.linspace(0.5, 2.0, len(losses))).sum().backward()
    gradients = [parameter.grad for parameter in trainable(target_loss.model).values()]
    return losses.detach(), torch.cat([each.reshape(-1).float() for each in gradients if each is not None])


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the positions of a chunk, for loss functions that are made from then on."""

    def set_size(size: int) -> None:
        monkeypatch.setattr("touchline.train.target_loss.label_chunk", lambda vocabulary: size)

    return set_size


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("size", [4, *(pytest.param(size, marks=pytest.mark.thorough) for size in (1, 13))])
@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_all(name: str, size: int, layout: BatchLayout, in_chunks: Callable[[int], None]) -> None:
    """Whatever the model does to its logits behind the head, and with smoothed labels."""
    trained = build(MODELS[name])
    trained.train()
    machine = select_device("float32")
    losses, gradient = losses_and_gradient(TargetLoss(trained, machine, label_smoothing=0.1), layout)
    in_chunks(size)
    chunked = TargetLoss(trained, machine, label_smoothing=0.1)
    found, other = losses_and_gradient(chunked, layout)
    assert chunked.label_chunk == size
    torch.testing.assert_close(found, losses, rtol=1e-5, atol=1e-6)
    assert float((other - gradient).norm() / gradient.norm()) < 1e-5
    with scoring(trained):
        torch.testing.assert_close(chunked(arrange(examples(), layout)), losses_of(trained, layout), rtol=1e-5, atol=0)


def losses_of(trained: nn.Module, layout: BatchLayout) -> Tensor:
    """Plain losses of a model: transformers' logits, without a hook."""
    machine = select_device("float32")
    return TargetLoss(trained, machine, of_other_trainer=True)(arrange(examples(), layout))


def test_bfloat16_gradients_agree_within_its_rounding(in_chunks: Callable[[int], None]) -> None:
    """A float32 adapter on a bfloat16 base, by autocast."""
    trained = build(MODELS["qwen3"], dtype=torch.bfloat16)
    for parameter in trainable(trained).values():
        parameter.data = parameter.data.float()
    machine = replace(select_device("float32"), base_dtype=torch.bfloat16)
    losses, gradient = losses_and_gradient(TargetLoss(trained, machine), PADDED)
    in_chunks(4)
    found, other = losses_and_gradient(TargetLoss(trained, machine), PADDED)
    torch.testing.assert_close(found, losses, rtol=0.02, atol=0.02)
    assert float((other - gradient).norm() / gradient.norm()) < 0.02


def test_at_most_a_chunks_logits_are_computed_at_once(in_chunks: Callable[[int], None]) -> None:
    in_chunks(4)
    trained = build(MODELS["llama"])
    target_loss = TargetLoss(trained, select_device("float32"))
    shapes: list[tuple[int, ...]] = []
    head = trained.get_base_model().get_output_embeddings()
    head.register_forward_hook(lambda module, arguments, output: shapes.append(tuple(output.shape)))
    losses_and_gradient(target_loss, PADDED)
    losses_and_gradient(target_loss, PADDED)
    whole, tested, chunks = (1, 1, VOCABULARY), (1, 1, VOCABULARY), [(1, n, VOCABULARY) for n in (4, 4, 4, 2)]
    assert shapes == [whole, tested, *chunks, whole, *chunks]


def test_a_small_micro_batch_and_a_trained_head_are_computed_as_before(in_chunks: Callable[[int], None]) -> None:
    """Bit for bit where all label positions fit into a chunk; a head with an adapter is never taken apart."""
    trained, machine = build(MODELS["llama"]), select_device("float32")
    large = TargetLoss(trained, machine)
    losses, gradient = losses_and_gradient(large, PADDED)
    in_chunks(14)
    found, other = losses_and_gradient(TargetLoss(trained, machine), PADDED)
    assert torch.equal(found, losses)
    assert torch.equal(other, gradient)
    in_chunks(4)
    with_head = build(MODELS["qwen3"], targets=("q_proj", "lm_head"))
    assert not chunked_loss.head_is_frozen(with_head.get_base_model())
    assert TargetLoss(with_head, machine).label_chunk is None
    whole = AutoModelForCausalLM.from_config(MODELS["llama"], dtype=torch.float32)
    assert TargetLoss(whole, machine).label_chunk is None
    assert TargetLoss(trained, machine, of_other_trainer=True).label_chunk is None


def test_a_model_that_cannot_be_taken_apart_is_computed_whole(
    in_chunks: Callable[[int], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose logits depend on more than its body's output."""
    trained, machine = build(MODELS["llama"]), select_device("float32")
    base = trained.get_base_model()
    plain = type(base).forward

    def shifted(self: nn.Module, input_ids: Tensor, **named: object) -> object:
        output = plain(self, input_ids=input_ids, **named)
        output.logits = output.logits * (1.0 + input_ids.sum() / 1000)
        return output

    monkeypatch.setattr(type(base), "forward", shifted)
    losses, gradient = losses_and_gradient(TargetLoss(trained, machine), PADDED)
    in_chunks(4)
    target_loss = TargetLoss(trained, machine)
    with caplog.at_level(logging.WARNING):
        found, other = losses_and_gradient(target_loss, PADDED)
    assert "cannot be computed in chunks" in caplog.text
    assert target_loss.label_chunk is None
    assert torch.equal(found, losses)
    assert torch.equal(other, gradient)


def test_a_chunk_holds_fewer_positions_of_a_larger_vocabulary() -> None:
    assert label_chunk(49_152) == 1365
    assert label_chunk(262_144) == 256
    assert label_chunk(2 * LOGITS_AT_ONCE) == 1


FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"]),
}
RANKS = {"default": 4, "second": 8, "third": 1}
TARGETS = ["q_proj", "v_proj", "down_proj"]


def adapter(rank: int, targets: list[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=targets, task_type="CAUSAL_LM")


def base_of(config: PretrainedConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    base: torch.nn.Module = model.requires_grad_(False)
    return base


def with_adapters(config: PretrainedConfig, ranks: Mapping[str, int], targets: list[str] = TARGETS) -> PeftModel:
    model: PeftModel | None = None
    base = base_of(config)
    for number, (name, rank) in enumerate(ranks.items()):
        torch.manual_seed(number)
        if model is None:
            model = get_peft_model(base, adapter(rank, targets), adapter_name=name)
        else:
            model.add_adapter(name, adapter(rank, targets))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def micro_batch(run: int, step: int, layout: BatchLayout) -> SequenceBatch:
    """Other examples, and another number of rows, for each run."""
    generator = np.random.default_rng([run, step])
    examples = []
    for _ in range(2 + run):
        prompt, answer = (tuple(map(int, generator.integers(1, 64, generator.integers(2, 9)))) for _ in range(2))
        examples.append(RenderedExample(prompt_ids=prompt, answer_ids=answer))
    return arrange(examples, layout)


@pytest.mark.parametrize("layout", [PADDED, BatchLayout(row_tokens=40)], ids=lambda layout: layout.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_three_adapters_learn_as_three_models_do(family: str, layout: BatchLayout) -> None:
    machine, config = select_device("float32"), FAMILIES[family]
    shared = with_adapters(config, RANKS)
    loss = TargetLoss(shared, machine)
    side_by_side = SideBySide(loss, list(RANKS))
    alone = []
    for number, rank in enumerate(RANKS.values()):
        base = base_of(config)
        torch.manual_seed(number)
        alone.append(TargetLoss(get_peft_model(base, adapter(rank, TARGETS)), machine))
    own = [trainable(shared, name) for name in RANKS]
    theirs = [trainable(each.model) for each in alone]
    assert [list(each) for each in own] == [list(each) for each in theirs]
    rates = (1e-2, 3e-3, 2e-2)
    optimizers = [[torch.optim.AdamW(e.values(), lr=r) for e, r in zip(s, rates, strict=True)] for s in (own, theirs)]
    for step in range(6):
        rows = [micro_batch(run, step, layout) for run in range(3)]
        requests = [MicroBatchGradient(rows=each, targets=len(each.labels)) for each in rows]
        together = side_by_side.add_gradients(list(RANKS), requests)
        for run, target_loss in enumerate(alone):
            expected = add_gradient(target_loss, requests[run].rows, requests[run].targets)
            assert together[run].item() == pytest.approx(expected.item(), abs=1e-5)
            for name, parameter in theirs[run].items():
                assert torch.allclose(own[run][name].grad, parameter.grad, atol=1e-5), (step, run, name)
        for optimizer in (*optimizers[0], *optimizers[1]):
            optimizer.step()
            optimizer.zero_grad()
    assert any(bool(parameter.any()) for name, parameter in own[0].items() if "lora_B" in name)
    with torch.no_grad():
        for run, name in enumerate(RANKS):
            rows_of_run = micro_batch(run, 9, layout)
            assert torch.allclose(side_by_side.losses(name, rows_of_run), alone[run](rows_of_run), atol=1e-4)


def test_a_run_whose_loss_is_not_finite_leaves_the_gradients_of_others_alone() -> None:
    shared = with_adapters(FAMILIES["llama"], RANKS)
    side_by_side = SideBySide(TargetLoss(shared, select_device("float32")), list(RANKS))
    with torch.no_grad():
        for parameter in trainable(shared, "second").values():
            parameter.fill_(float("inf"))
    requests = [
        MicroBatchGradient(rows=(rows := micro_batch(run, 0, PADDED)), targets=len(rows.labels)) for run in range(3)
    ]
    losses = side_by_side.add_gradients(list(RANKS), requests)
    assert [bool(torch.isfinite(loss)) for loss in losses] == [True, False, True]
    for name in ("default", "third"):
        assert all(bool(torch.isfinite(e.grad).all()) for e in trainable(shared, name).values() if e.grad is not None)


def test_an_adapter_on_the_output_head_is_refused() -> None:
    shared = with_adapters(FAMILIES["llama"], RANKS, [*TARGETS, "lm_head"])
    with pytest.raises(InputError, match=r"cannot be trained in a cohort: the layer .*lm_head"):
        SideBySide(TargetLoss(shared, select_device("float32")), list(RANKS))
