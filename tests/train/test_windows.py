"""Models whose layers attend within a window only: rows that examples share give the losses of examples alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.train.tiny_sizes import SIZES, made_examples, made_model
from transformers import Gemma3TextConfig, MistralConfig, PretrainedConfig, Qwen3Config

from touchline.backends.peft.layout import PADDED, BatchLayout, arrange
from touchline.train.machine import select_device
from touchline.train.target_loss import TargetLoss, sliding_window

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
