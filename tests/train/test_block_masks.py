"""Masks by blocks allow exactly what dense masks allow; losses and gradients under both agree.

FlexAttention runs unfused here, forward and backward. Its fused kernels need a GPU.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from tests.tiny_model import write_tiny_words
from tests.train.tiny_run import make_config, tiny_train, write_config
from tests.train.tiny_sizes import SIZES
from torch import Tensor
from torch.nn.attention import flex_attention
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)
from transformers.integrations import flex_attention as library

from touchline.backends.peft.layout import BatchLayout, SequenceBatch, arrange, stack, visible, within
from touchline.core.catalog import RenderedExample
from touchline.data.metrics_file import read_metrics
from touchline.train import blockwise as block_masks
from touchline.train import setup
from touchline.train.attempt import Stop
from touchline.train.blockwise import FLEX, block_mask, blocks
from touchline.train.machine import select_device
from touchline.train.model import trainable
from touchline.train.process import run_training
from touchline.train.proofs import block_mask_fault
from touchline.train.target_loss import TargetLoss

WINDOW = 8
THREE_LAYERS = SIZES | {"num_hidden_layers": 3}
TYPES = ["sliding_attention", "sliding_attention", "full_attention"]
MODELS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**THREE_LAYERS),
    "gemma2": Gemma2Config(**THREE_LAYERS, layer_types=TYPES, sliding_window=WINDOW, attn_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**THREE_LAYERS, layer_types=TYPES, sliding_window=WINDOW),
    "mistral": MistralConfig(**THREE_LAYERS, sliding_window=WINDOW),
    "qwen3": Qwen3Config(**THREE_LAYERS, use_sliding_window=True, layer_types=TYPES, sliding_window=WINDOW),
}
PACKED, PREFIX = BatchLayout(row_tokens=96), BatchLayout(row_tokens=96, share_prefix=True)


def examples(lengths: Sequence[int] = (3, 14, 9, 30, 20), beginning: int = 3) -> list[RenderedExample]:
    """Examples with a common beginning, some longer than the window, some within it."""
    generator = np.random.default_rng(0)
    found = []
    for length in lengths:
        ids = tuple(int(token) for token in generator.integers(1, 64, length + 3))
        found.append(RenderedExample(prompt_ids=(*range(5, 5 + beginning), *ids[:length]), answer_ids=ids[length:]))
    return found


def layouts() -> list[SequenceBatch]:
    """Packed and shared-prefix rows of several widths, some with much padding, and rows without an example."""
    generator = np.random.default_rng(1)
    found = []
    for beginning in (1, 4, 40):
        many = examples(generator.integers(1, 60, 9).tolist(), beginning)
        for layout in (BatchLayout(row_tokens=130), BatchLayout(row_tokens=150, share_prefix=True)):
            found.append(arrange(many, layout))
    return [*found, stack([arrange(examples(), PREFIX), arrange(examples((40, 30, 70, 5, 5)), PREFIX)])]


def allowed(rows: SequenceBatch, window: int | None) -> NDArray[np.bool_]:
    seen = visible(rows.segments)
    if window is not None:
        seen = seen & within(rows.positions, window)
    return seen | np.eye(seen.shape[-1], dtype=np.bool_)


@pytest.mark.parametrize("window", [None, 5, 30])
@pytest.mark.parametrize("size", [4, 16, 128])
def test_blocks_allow_what_the_dense_mask_does(size: int, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every allowed pair is in a named block; in a whole block all pairs are allowed."""
    monkeypatch.setattr(block_masks, "BLOCK", size)
    wholes = 0
    for rows in layouts():
        dense = allowed(rows, window)
        count, width = rows.segments.shape
        made = block_mask(rows.segments, rows.positions, window, torch.device("cpu"))
        assert made.shape == (count, 1, width, width)
        by_rule = flex_attention.create_mask(made.mask_mod, count, 1, width, width, device="cpu")
        assert np.array_equal(by_rule[:, 0].numpy(), dense)
        missing = -width % size
        padded = np.pad(dense, ((0, 0), (0, missing), (0, missing)))
        number = (width + missing) // size
        tiles = padded.reshape(count, number, size, number, size)
        some, whole = blocks(rows.segments, rows.positions, window)
        assert not (tiles.any((2, 4)) & ~some).any()
        assert not (whole & ~tiles.all((2, 4))).any()
        # Without a window no block is named beyond need; with one not all of those behind it.
        everywhere, _ = blocks(rows.segments, rows.positions, None)
        if window is None:
            assert np.array_equal(some, tiles.any((2, 4)))
        assert not (some & ~everywhere).any()
        assert np.array_equal(made.to_dense()[:, 0].numpy().astype(bool), some)
        wholes += int(whole.sum())
    assert wholes > 0 or size == 128 or window is not None


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run FlexAttention unfused, and let it run backward on a CPU, which only its kernels cannot."""

    def attend(query: Tensor, key: Tensor, value: Tensor, training: bool, **settings: object) -> object:
        return flex_attention.flex_attention(query, key, value, **settings)

    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(library, "compile_friendly_flex_attention", attend)


def build(config: PretrainedConfig) -> TargetLoss:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    # Random weights look at few tokens; larger ones tell a window from none.
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(4.0)
    model = get_peft_model(base.requires_grad_(False), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(0.0, 0.05)
    model.eval()
    return TargetLoss(model, select_device("float32"))


def losses_and_gradient(target_loss: TargetLoss, rows: SequenceBatch) -> tuple[Tensor, Tensor]:
    target_loss.model.zero_grad()
    losses = target_loss(rows)
    losses.mean().backward()
    gradients = [parameter.grad for parameter in trainable(target_loss.model).values()]
    return losses.detach(), torch.cat([each.reshape(-1) for each in gradients if each is not None])


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_dense_masks(name: str) -> None:
    """With sliding windows, capped scores, shared prefixes and padding."""
    target_loss = build(MODELS[name])
    base = target_loss.model.get_base_model()
    for rows in (arrange(examples(), PACKED), arrange(examples(), PREFIX), layouts()[-1]):
        base.set_attn_implementation("eager")
        target_loss.takes_block_masks = False
        losses, gradient = losses_and_gradient(target_loss, rows)
        base.set_attn_implementation(FLEX)
        target_loss.takes_block_masks = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, other = losses_and_gradient(target_loss, rows)
        torch.testing.assert_close(found, losses, rtol=1e-4, atol=1e-5)
        assert float((other - gradient).norm() / gradient.norm()) < 1e-4
        without = target_loss._window
        target_loss._window = None
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            assert (without is None) == bool((target_loss(rows) - losses).abs().max() < 1e-3)
        target_loss._window = without


def test_other_masks_go_to_torchs_fused_kernel() -> None:
    """As of rows that hold one example each, or of a CPU."""
    target_loss = build(MODELS["mistral"])
    base = target_loss.model.get_base_model()
    assert not target_loss.takes_block_masks
    for rows in (arrange(examples(), BatchLayout()), arrange(examples(), PREFIX)):
        base.set_attn_implementation("sdpa")
        losses, gradient = losses_and_gradient(target_loss, rows)
        base.set_attn_implementation(FLEX)
        found, other = losses_and_gradient(target_loss, rows)
        assert torch.equal(found, losses)
        assert torch.equal(other, gradient)


@pytest.mark.usefixtures("unfused")
def test_masks_by_blocks_are_used_only_if_they_agree_with_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model keeps its attention, and no gradient is left."""
    target_loss = build(MODELS["gemma3"])
    target_loss.takes_block_masks = True
    config = target_loss.model.get_base_model().config
    for layout in (PACKED, PREFIX):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert block_mask_fault(target_loss, arrange(examples(), layout)) is None
    assert config._attn_implementation == "eager"
    assert all(parameter.grad is None for parameter in target_loss.model.parameters())

    def causal(segments: Tensor, positions: Tensor, window: int | None) -> object:
        return lambda row, head, query, key: key <= query

    monkeypatch.setattr(block_masks, "_rule", causal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fault = block_mask_fault(target_loss, arrange(examples(), PACKED))
    assert fault.startswith("losses differ by ")


def test_masks_by_blocks_are_refused_where_the_kernel_cannot_run() -> None:
    """As backward on a CPU, in a model without such attention, or with dropout in attention."""
    target_loss = build(MODELS["llama"])
    target_loss.takes_block_masks = True
    rows = arrange(examples(), PACKED)
    base = target_loss.model.get_base_model()
    assert "backward on CPU" in str(block_mask_fault(target_loss, rows))
    assert base.config._attn_implementation == "eager"
    base._supports_flex_attn = False
    assert "flex" in str(block_mask_fault(target_loss, rows)).lower()
    base.config.attention_dropout = 0.1
    assert block_mask_fault(target_loss, rows) == "attention has dropout"


@pytest.mark.usefixtures("unfused")
def test_masks_by_blocks_train_as_dense_ones(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen as on a GPU: by the width of packed rows, after the test."""

    class AsOnGpu(TargetLoss):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.takes_block_masks = True

    monkeypatch.setattr(setup, "TargetLoss", AsOnGpu)
    words = write_tiny_words(tmp_path / "words.json", 16, 2, 2)
    losses = {}
    for wanted in ("auto", "sdpa"):
        train = tiny_train(attention=wanted, packed=True, max_seq_len=600, micro_batch_size=8, epochs=1)
        config = make_config(tiny_model, words, train, prompt="Capitalize the given word, all of it: {input} " * 3)
        folder = write_config(tmp_path / wanted, config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert run_training(config, folder, Stop())
        found = read_metrics(folder / "metrics.jsonl")
        losses[found.attempts[0].attention] = [row.loss for row in found.steps]
    assert losses.keys() == {FLEX, "sdpa"}
    assert losses["sdpa"] == pytest.approx(losses[FLEX], abs=1e-4)
