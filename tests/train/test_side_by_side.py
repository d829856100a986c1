"""Adapters side by side on one base: losses and gradients of each are those of a model of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.train.tiny_sizes import SIZES
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from touchline.backends.peft.layout import PADDED, BatchLayout, SequenceBatch, arrange
from touchline.core.catalog import RenderedExample
from touchline.core.errors import InputError
from touchline.train.machine import select_device
from touchline.train.model import trainable
from touchline.train.side_by_side import SideBySide
from touchline.train.target_loss import MicroBatchGradient, TargetLoss, add_gradient

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
    assert model is not None
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
    optimizers = [
        [torch.optim.AdamW(each.values(), lr=rate) for each, rate in zip(side, rates, strict=True)]
        for side in (own, theirs)
    ]
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
        assert all(
            bool(torch.isfinite(each.grad).all()) for each in trainable(shared, name).values() if each.grad is not None
        )


def test_an_adapter_on_the_output_head_is_refused() -> None:
    shared = with_adapters(FAMILIES["llama"], RANKS, [*TARGETS, "lm_head"])
    with pytest.raises(InputError, match=r"cannot be trained in a cohort: the layer .*lm_head"):
        SideBySide(TargetLoss(shared, select_device("float32")), list(RANKS))
