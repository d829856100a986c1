"""Models whose layers attend within a window only: rows that examples share give the losses of examples alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.train.tiny_sizes import SIZES
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, PretrainedConfig, Qwen3Config

from touchline.backends.peft.layout import PADDED, BatchLayout, arrange
from touchline.core.catalog import RenderedExample
from touchline.train.machine import select_device
from touchline.train.target_loss import TargetLoss, sliding_window

WINDOW = 8
THREE_LAYERS = SIZES | {"num_hidden_layers": 3, "sliding_window": WINDOW}
TYPES = ["sliding_attention", "sliding_attention", "full_attention"]
MODELS: dict[str, PretrainedConfig] = {
    "gemma3": Gemma3TextConfig(**THREE_LAYERS, layer_types=TYPES),
    "mistral": MistralConfig(**THREE_LAYERS),
    "qwen3": Qwen3Config(**THREE_LAYERS, use_sliding_window=True, layer_types=TYPES),
}


def examples() -> list[RenderedExample]:
    """Examples with a common beginning, some longer than the window, some within it."""
    generator = np.random.default_rng(0)
    found = []
    for length in (3, 14, 9, 20):
        ids = tuple(int(token) for token in generator.integers(1, 64, length + 3))
        found.append(RenderedExample(prompt_ids=(5, 6, 7, *ids[:length]), answer_ids=ids[length:]))
    return found


def build(config: PretrainedConfig, attention: str) -> TargetLoss:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    # Random weights look at few tokens; larger ones tell a window from none.
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(4.0)
    model = get_peft_model(base.requires_grad_(False), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model.eval()
    return TargetLoss(model, select_device("float32"))


def means(target_loss: TargetLoss, layout: BatchLayout) -> np.ndarray:
    rows = arrange(examples(), layout)
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
