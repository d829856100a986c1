"""The formula against torch's own counter, which sees every matrix product of the real model code."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.estimate.made_shapes import LORA
from tests.tiny_vision import build_tiny_vision_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.shape import ModelShape
from touchline.data.shapes import shape_of_config
from touchline.estimate.work import forward_flops, step_flops, vision_flops, work_of

CONFIG = LlamaConfig(
    vocab_size=512,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=True,
    attn_implementation="eager",
)


def _setup() -> TrainingSetup:
    shape = shape_of_config(CONFIG.to_dict(), "tiny", "a test")
    assert isinstance(shape, ModelShape)
    return replace(
        LORA,
        shape=shape,
        backend="trl",
        rank=0,
        target_modules=(),
        base_dtype="float32",
        adapter_dtype="float32",
        attention="eager",
    )


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (3, 40), (2, 128)])
def test_every_product_of_a_frozen_model_is_counted(rows: int, width: int) -> None:
    model = LlamaForCausalLM(CONFIG).requires_grad_(False)
    embedded = torch.zeros(rows, width, CONFIG.hidden_size, requires_grad=True)
    work = work_of([MicroBatch(rows=rows, width=width, label_tokens=rows * width)])
    forward, whole = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with forward:
        model(inputs_embeds=embedded)
    with whole:
        model(inputs_embeds=embedded).logits.sum().backward()
    setup = _setup()
    # The angles of the rotation are a product too: head width times tokens, a thousandth of the rest.
    assert forward.get_total_flops() == pytest.approx(forward_flops(setup, work), rel=2e-3)
    assert whole.get_total_flops() == pytest.approx(step_flops(setup, work).total, rel=2e-3)


def test_every_product_of_a_vision_tower_is_counted(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(build_tiny_vision_model(tmp_path))
    shape = shape_of_config(config.to_dict(), "tiny", "a test")
    assert isinstance(shape, ModelShape)
    tower = Qwen3VLVisionModel._from_config(config.vision_config, attn_implementation="eager")
    grids = torch.tensor([[1, 6, 8], [1, 4, 6]])
    patches = [48, 24]
    counted = FlopCounterMode(display=False)
    with counted:
        tower(torch.zeros(sum(patches), 3 * 2 * 4 * 4), grid_thw=grids)
    work = replace(
        work_of([MicroBatch(rows=2, width=16, label_tokens=1)]),
        patches=sum(patches),
        patch_squares=sum(count**2 for count in patches),
    )
    assert counted.get_total_flops() == pytest.approx(vision_flops(replace(_setup(), shape=shape), work), rel=1e-2)
