"""Operations of a step: what is counted once, twice, three times, and what grows with the square."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_8B, LORA, QVO_MLP

from touchline.core.estimate import MicroBatch
from touchline.data.shapes import load_shape
from touchline.estimate.work import StepWork, forward_flops, step_flops, work_of

pytestmark = pytest.mark.planning

LORA = replace(LORA, rank=16)
WORK = work_of([MicroBatch(rows=4, width=512, label_tokens=100)])


def test_what_each_part_of_a_step_costs() -> None:
    matrices = 2 * LLAMA_1B.linear_parameters * WORK.tokens
    assert step_flops(LORA, WORK).linear == 2 * matrices
    assert step_flops(replace(LORA, gradient_checkpointing=True), WORK).linear == 3 * matrices
    full = replace(LORA, method="full", rank=0, target_modules=())
    assert step_flops(full, WORK).linear == 3 * matrices
    assert step_flops(replace(full, gradient_checkpointing=True), WORK).linear == 4 * matrices
    head = 4 * LLAMA_1B.vocab_size * LLAMA_1B.hidden_size
    assert step_flops(LORA, WORK).head == head * WORK.tokens
    assert step_flops(replace(LORA, gradient_checkpointing=True), WORK).head == head * WORK.tokens
    assert step_flops(replace(LORA, backend="peft"), WORK).head == head * 100
    square = 4 * 512 * LLAMA_1B.q_size * LLAMA_1B.num_layers * WORK.tokens
    assert step_flops(LORA, WORK).attention == pytest.approx(square * 0.5 * 3.5)
    assert step_flops(replace(LORA, gradient_checkpointing=True), WORK).attention == pytest.approx(square * 0.5 * 4.5)
    assert step_flops(replace(LORA, attention="eager"), WORK).attention == pytest.approx(square * 3)
    more = step_flops(replace(LORA, rank=64), WORK).adapter
    assert more == 4 * step_flops(LORA, WORK).adapter
    assert more == 6 * LLAMA_1B.adapter_parameters(64, QVO_MLP) * WORK.tokens
    # At short rows everything else is small: 4 P T, not 6; looking up an embedding multiplies nothing.
    work = work_of([MicroBatch(rows=16, width=64, label_tokens=1)])
    setup = replace(LORA, shape=LLAMA_8B)
    multiplied = LLAMA_8B.num_parameters - LLAMA_8B.vocab_size * LLAMA_8B.hidden_size
    assert step_flops(setup, work).total / (multiplied * work.tokens) == pytest.approx(4, rel=0.03)


@given(rows=st.integers(1, 64), width=st.integers(1, 4096), factor=st.integers(2, 5), checkpointing=st.booleans())
def test_operations_grow_as_they_must(rows: int, width: int, factor: int, checkpointing: bool) -> None:
    setup = replace(LORA, gradient_checkpointing=checkpointing)
    one = step_flops(setup, work_of([MicroBatch(rows=rows, width=width, label_tokens=rows)]))
    more_rows = step_flops(setup, work_of([MicroBatch(rows=rows * factor, width=width, label_tokens=rows * factor)]))
    wider = step_flops(setup, work_of([MicroBatch(rows=rows, width=width * factor, label_tokens=rows * factor)]))
    assert more_rows.total == pytest.approx(one.total * factor)
    assert wider.linear == pytest.approx(one.linear * factor)
    assert wider.attention == pytest.approx(one.attention * factor**2)


@given(rows=st.integers(1, 64), width=st.integers(1, 4096))
def test_forward_is_less_than_half_of_a_step(rows: int, width: int) -> None:
    work = work_of([MicroBatch(rows=rows, width=width, label_tokens=rows)])
    assert 0 < forward_flops(LORA, work) < step_flops(LORA, work).total / 2 * 1.001


def test_a_step_without_work_is_refused() -> None:
    with pytest.raises(ValueError, match="without work"):
        StepWork(micro_batches=1, tokens=0, squares=0, label_tokens=0)
    with pytest.raises(ValueError, match="at least one"):
        work_of([])


def test_a_vision_tower_by_hand() -> None:
    """Qwen3-VL-8B and an image of 1280 x 1024 pixels: 80 x 64 patches of 16 pixels, 1280 tokens.

    27 blocks of width 1152 and inner width 4304, without a gate; 4 patches a token, joined by 4608 x 4608 and
    4608 x 4096 after the tower and after 3 deeper blocks.
    """
    shape = load_shape("Qwen3-VL-8B-Instruct", Path("nowhere"))
    patches = 80 * 64
    work = replace(WORK, patches=patches, patch_squares=patches**2)
    blocks = 27 * (4 * 1152**2 + 2 * 1152 * 4304)
    embedding = 3 * 2 * 16 * 16 * 1152
    joining = 4 * (4608 * 4608 + 4608 * 4096)
    by_hand = 2 * patches * (blocks + embedding) + 2 * 1280 * joining + 4 * patches**2 * 1152 * 27
    assert by_hand == pytest.approx(7.90e12, rel=1e-3)
    setup = replace(LORA, shape=shape)
    assert step_flops(setup, work).vision == by_hand
    assert forward_flops(setup, work) - forward_flops(setup, WORK) == pytest.approx(by_hand)
    assert step_flops(replace(setup, gradient_checkpointing=True), work).vision == by_hand
    assert step_flops(setup, WORK).vision == 0
    assert work.times(3).patches == 3 * patches
