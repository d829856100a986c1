"""What the allocator keeps of micro-batches of many sizes: how many outgrow all before them, and what that adds."""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from pathlib import Path

import numpy as np
import pytest
from benchmarks.allocator import replay
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_TARGETS

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import MemoryVerdict, MicroBatch, TrainingSetup
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.memory import memory_estimate
from touchline.estimate.outgrown import lengths_of_mean, outgrown_of, widths_of
from touchline.plan.local.given_lengths import read_lengths

pytestmark = pytest.mark.planning

SETUP = TrainingSetup(
    shape=LLAMA_1B,
    backend="trl",
    method="lora",
    rank=16,
    target_modules=LLAMA_TARGETS,
    base_dtype="bfloat16",
    adapter_dtype="float32",
    gradient_checkpointing=True,
    release="0.9",
)
BATCH = MicroBatch(rows=4, width=2048, label_tokens=8192)


def counted(order: tuple[int, ...]) -> float:
    """The sum of the sizes that outgrow all before them, over the largest."""
    return sum(each for at, each in enumerate(order) if each > max(order[:at], default=0)) / max(order)


@pytest.mark.parametrize(
    "sizes", [(5,), (3, 3, 3), (1, 2, 3, 4), (7, 7, 2, 9, 1), (10, 9, 9, 9, 1), (100, 99, 1, 1, 1, 2)]
)
def test_the_mean_over_all_orders_is_counted_order_by_order(sizes: tuple[int, ...]) -> None:
    expected = statistics.mean(counted(order) for order in itertools.permutations(sizes))
    assert outgrown_of(np.array(sizes))[0] == pytest.approx(expected)


def test_rows_of_one_length_outgrow_nothing() -> None:
    assert outgrown_of(np.full(1000, 2048)) == (1.0, 1.0)
    assert set(lengths_of_mean(2048, 2048)) == {2048}


@pytest.mark.parametrize("mean", [20.0, 300.0, 1024.0, 2000.0])
def test_lengths_have_the_mean_that_was_asked_for(mean: float) -> None:
    lengths = lengths_of_mean(2048, mean, 5000)
    assert lengths.mean() == pytest.approx(mean, rel=0.05)
    assert 0.98 * 2048 <= lengths.max() <= 2048


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_widths_are_those_of_shuffled_micro_batches(rows: int) -> None:
    lengths = np.arange(1, 3201)
    chance = np.random.Generator(np.random.PCG64(1))
    shuffled = [chance.permutation(lengths).reshape(-1, rows).max(axis=1).mean() for _ in range(20)]
    found = widths_of(lengths, rows)
    assert len(found) == 3200 // rows
    assert found.mean() == pytest.approx(np.mean(shuffled), rel=0.02)
    assert found.max() == 3200


@pytest.mark.parametrize("copies", [False, True])
def test_the_allocator_takes_new_blocks_only_where_a_micro_batch_outgrows_all_before(copies: bool) -> None:
    chance = np.random.Generator(np.random.PCG64(0))
    kept = []
    for _ in range(10):
        tokens = [int(each) for each in chance.integers(50, 2048, 300)]
        outgrown, bytes_an_entry, others = replay(tokens, copies=copies)
        assert outgrown == pytest.approx(counted(tuple(tokens)))
        assert others == 0
        kept.append(bytes_an_entry)
    # All of what the loss needs at once, 12 bytes, is taken anew.
    assert 9 <= statistics.median(kept) <= 14


def estimate(
    outgrown: tuple[float, float], gpu: str = "A100-80GB", rows: int = 4
) -> tuple[float, float, MemoryVerdict]:
    """Reserved memory and its upper end, and the verdict."""
    found, coefficients = find_gpu(gpu), memory_coefficients("trl")
    assert isinstance(found, Gpu)
    assert isinstance(coefficients, MemoryCoefficients)
    batch = dataclasses.replace(BATCH, rows=rows, label_tokens=rows * 2048)
    answer = memory_estimate(SETUP, batch, coefficients=coefficients, gpu=found, outgrown=outgrown)
    assert answer.process.high <= max(found.capacity_gib, estimate_plain(rows, found, coefficients))
    return answer.reserved.value, answer.reserved.high, answer.verdict


def test_a_process_much_larger_than_the_verdict_counts_says_why() -> None:
    found, coefficients = find_gpu("A100-80GB"), memory_coefficients("trl")
    assert isinstance(found, Gpu)
    assert isinstance(coefficients, MemoryCoefficients)
    words = [
        memory_estimate(SETUP, BATCH, coefficients=coefficients, gpu=found, outgrown=outgrown).assumption
        for outgrown in ((1.0, 1.0), (6.0, 6.0))
    ]
    assert "PyTorch keeps from smaller micro-batches" not in words[0]
    assert "PyTorch keeps from smaller micro-batches" in words[1]


def estimate_plain(rows: int, gpu: Gpu, coefficients: MemoryCoefficients) -> float:
    """Upper end of the process where all rows have one length."""
    batch = dataclasses.replace(BATCH, rows=rows, label_tokens=rows * 2048)
    return memory_estimate(SETUP, batch, coefficients=coefficients, gpu=gpu).process.high


def test_blocks_that_are_kept_change_reserved_memory_and_no_verdict() -> None:
    """They are given back before memory runs out; so the interval ends at the device's capacity."""
    for rows in (1, 4, 12, 40):
        plain, grown = estimate((1.0, 1.0), rows=rows), estimate((6.0, 6.0), rows=rows)
        assert grown[0] >= plain[0]
        assert grown[1] >= plain[1]
        assert grown[2] is plain[2]
    assert estimate((6.0, 6.0))[0] > 1.3 * estimate((1.0, 1.0))[0]
    unknown, plain = estimate((1.0, 2.0)), estimate((1.0, 1.0))
    assert unknown[0] == plain[0]
    assert unknown[1] > plain[1]


def test_lengths_are_not_waited_for(tmp_path: Path) -> None:
    """From a pipe that nobody writes to, or from a file without an end."""
    os.mkfifo(tmp_path / "pipe")
    assert read_lengths(str(tmp_path / "pipe")) == "it is no text file"
    assert read_lengths("/dev/zero") == "it is no text file"
