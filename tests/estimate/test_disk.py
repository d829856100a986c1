"""Sizes on disk, against the files' formats and against what the seeds saw."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_3B, LLAMA_TARGETS, QVO_MLP, SHAPES

from touchline.core.estimate import Dtype, TrainingSetup
from touchline.core.shape import ModelShape
from touchline.estimate.disk import (
    adapter_file_bytes,
    adapter_tensors,
    disk_estimate,
    model_bytes,
    resume_bytes,
)

pytestmark = pytest.mark.planning

MIB = 2**20


def listed(size_bytes: int) -> str:
    """As `ls -lh` writes it: rounded up, one decimal below ten."""
    size = size_bytes / MIB
    return f"{math.ceil(size * 10) / 10:.1f}" if size < 10 else f"{math.ceil(size)}"


@pytest.mark.parametrize(
    ("shape", "rank", "text"),
    [(LLAMA_1B, 4, "5.2"), (LLAMA_1B, 64, "82"), (LLAMA_3B, 4, "11"), (LLAMA_3B, 64, "172")],
)
def test_the_seeds_adapters_come_out(shape: ModelShape, rank: int, text: str) -> None:
    """Seed 002's 5.2, 82, 11 and 172 MB: torchtune's `adapter_model.pt`, q, v, o and the feed-forward part."""
    assert listed(adapter_file_bytes(shape, rank, QVO_MLP, "bfloat16", file="torch")) == text
    exact = {
        ("Llama-3.2-1B", 4): 5.06,
        ("Llama-3.2-1B", 64): 81.0,
        ("Llama-3.2-3B", 4): 10.72,
        ("Llama-3.2-3B", 64): 171.5,
    }
    elements = sum(rows * columns for _, rows, columns in adapter_tensors(shape, rank, QVO_MLP))
    assert elements == shape.adapter_parameters(rank, QVO_MLP)
    assert 2 * elements / MIB == pytest.approx(exact[shape.name, rank], abs=0.01)


def test_a_file_of_our_own_trainer() -> None:
    """`adapter_model.safetensors` of a run on SmolLM2-135M-Instruct, rank 4, all linear layers, float32."""
    assert adapter_file_bytes(SHAPES["SmolLM2-135M"], 4, LLAMA_TARGETS, "float32") == 4938648


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("targets", [("q_proj",), LLAMA_TARGETS])
def test_a_safetensors_file_has_exactly_that_size(
    tmp_path: Path, dtype: Dtype, rank: int, targets: tuple[str, ...]
) -> None:
    shape = dataclasses.replace(SHAPES["SmolLM2-135M"], num_layers=3)
    tensors = {
        name: np.zeros((rows, columns), dtype=dtype) for name, rows, columns in adapter_tensors(shape, rank, targets)
    }
    path = tmp_path / "adapter_model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    assert path.stat().st_size == adapter_file_bytes(shape, rank, targets, dtype)


def test_a_whole_model_is_its_parameters() -> None:
    assert model_bytes(LLAMA_1B, "bfloat16") == 2 * 1_235_814_400
    assert model_bytes(LLAMA_3B, "float32") == 4 * 3_212_749_824


SETUP = TrainingSetup(
    shape=LLAMA_1B,
    backend="peft",
    method="lora",
    rank=64,
    target_modules=QVO_MLP,
    base_dtype="bfloat16",
    adapter_dtype="bfloat16",
)


def test_the_resume_state_is_three_times_what_is_trained() -> None:
    """Measured: adapter 4,941,976, optimizer 9,952,536, generators 5,128 and state.json 932 bytes."""
    setup = dataclasses.replace(
        SETUP, shape=SHAPES["SmolLM2-135M"], rank=4, target_modules=LLAMA_TARGETS, adapter_dtype="float32"
    )
    assert resume_bytes(setup) == pytest.approx(4941976 + 9952536 + 5128 + 932, rel=0.001)


def test_a_runs_disk() -> None:
    """Seed 002: three epochs of adapters alone are 246 MB, of merged models 7.5 GB."""
    adapters = disk_estimate(SETUP, save="adapter", checkpoints=3, steps=1500, resumes=False)
    assert adapters.parts["checkpoints"] == pytest.approx(3 * 84.96, rel=0.01)
    merged = disk_estimate(SETUP, save="merged", checkpoints=3, steps=1500, resumes=False)
    assert merged.total.value / 1000 == pytest.approx(7.42, abs=0.05)
    assert merged.total.low <= merged.total.value <= merged.total.high
    assert sum(merged.parts.values()) == pytest.approx(merged.total.value)
    assert merged.largest > merged.total.value


def test_a_checkpoint_goes_with_its_method() -> None:
    with pytest.raises(ValueError, match="is not possible with"):
        disk_estimate(SETUP, save="full", checkpoints=1, steps=1)
    full = dataclasses.replace(SETUP, method="full", rank=0, target_modules=())
    with pytest.raises(ValueError, match="is not possible with"):
        disk_estimate(full, save="adapter", checkpoints=1, steps=1)
    found = disk_estimate(full, save="full", checkpoints=1, steps=1)
    assert found.parts["resume"] == pytest.approx(3 * found.parts["checkpoints"], rel=0.001)


@given(
    checkpoints=st.integers(0, 50),
    steps=st.integers(0, 100_000),
    resumes=st.booleans(),
    tokenizer=st.integers(0, 20_000_000),
)
def test_more_of_anything_takes_more(checkpoints: int, steps: int, resumes: bool, tokenizer: int) -> None:
    now = disk_estimate(
        SETUP, save="adapter", checkpoints=checkpoints, steps=steps, resumes=resumes, tokenizer_bytes=tokenizer
    )
    assert 0 <= now.total.low <= now.total.value <= now.total.high
    more = disk_estimate(SETUP, save="adapter", checkpoints=checkpoints + 1, steps=steps + 1, tokenizer_bytes=tokenizer)
    assert more.total.value > now.total.value
    assert json.dumps(dict(now.parts))
