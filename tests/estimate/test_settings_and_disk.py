"""Each setting of a training in its estimate: parts change by the right bytes, past runs with another one differ."""

import itertools
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.allocator import replay
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.cases import parametrize
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_3B, LLAMA_TARGETS, LORA, QVO_MLP, SHAPES
from tests.estimate.test_evidence_used import said

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.registry import get_backend, memory_coefficients
from touchline.core.estimate import Dtype, MemoryVerdict, MicroBatch, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.estimate import disk, evidence_memory, points
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.history_points import to_training_setup
from touchline.estimate.memory import memory_estimate
from touchline.estimate.parts import optimizer_bytes, peak_parts, weight_bytes
from touchline.estimate.spreads import lengths_of_mean, outgrown_of, widths_of
from touchline.estimate.terms import TERMS, amounts
from touchline.estimate.what_if import what_ifs
from touchline.estimate.work import StepWork
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.history.facts import method_fact, quantization_fact
from touchline.plan.local.lengths import read_lengths

pytestmark = pytest.mark.planning

GPU = TargetMachine(
    name="A100-80GB", kind="gpu", memory=Quantity(value=80, unit="GiB"), base_dtype="bfloat16", count=1, source="a test"
)
RANK = 8
BATCH = MicroBatch(rows=4, width=512, label_tokens=400)
MATRICES = sum(linear.inputs * linear.outputs for linear in LLAMA_1B.linears) * LLAMA_1B.num_layers
OUTPUTS = sum(linear.outputs for linear in LLAMA_1B.linears) * LLAMA_1B.num_layers
PAIRS = [(RANK, linear.inputs) for linear in LLAMA_1B.linears] + [(linear.outputs, RANK) for linear in LLAMA_1B.linears]
ELEMENTS = LLAMA_1B.num_layers * sum(rows * columns for rows, columns in PAIRS)


def setup(backend: str = "peft", lora: LoraConfig | None = None, **changes: Any) -> TrainingSetup:
    lora = lora or LoraConfig(rank=RANK, target_modules=LLAMA_TARGETS)
    return get_backend(backend).setup(TrainConfig(lora=lora, **changes), LLAMA_1B, GPU, 512)


def coefficients(backend: str = "peft") -> MemoryCoefficients:
    found = memory_coefficients(backend)
    assert isinstance(found, MemoryCoefficients)
    return found


DORA = LoraConfig(rank=RANK, target_modules=LLAMA_TARGETS, dora=True)


@pytest.mark.parametrize("backend", ["peft", "trl"])
@parametrize(
    "quantization, bytes_each, bytes_an_output",
    ("none", 2.0, 0),
    ("nf4", 0.5 + 1 / 64 + 4 / (64 * 256), 0),
    ("int8", 1.0, 4),
)
def test_the_base_is_quantized(backend: str, quantization: str, bytes_each: float, bytes_an_output: int) -> None:
    """Matrices of the blocks are quantized; embedding, output layer and norms stay in 16 bits."""
    size = weight_bytes(setup(backend, quantization=quantization), coefficients(backend))
    rest = 2 * (LLAMA_1B.num_parameters - MATRICES)
    assert size == pytest.approx(MATRICES * bytes_each + OUTPUTS * bytes_an_output + rest, abs=1)


@parametrize(
    "optimizer, size",
    ("adamw", 8 * ELEMENTS),
    # All of these tensors have 4,096 elements or more.
    ("adamw_8bit", 2 * (1 + 4 / 256) * ELEMENTS),
    ("paged_adamw_8bit", 2 * (1 + 4 / 256) * ELEMENTS),
    ("muon", 4 * ELEMENTS),
    ("adafactor", 4 * LLAMA_1B.num_layers * sum(rows + columns for rows, columns in PAIRS)),
)
def test_the_optimizers_state_is_counted_by_tensor(optimizer: str, size: float) -> None:
    plain, asked = setup(), setup(optimizer=optimizer)
    assert optimizer_bytes(asked, coefficients()) == pytest.approx(size)
    parts = [peak_parts(each, BATCH, coefficients()) for each in (plain, asked)]
    assert parts[0].total - parts[1].total == pytest.approx(8 * ELEMENTS - size)
    assert disk.resume_bytes(plain) - disk.resume_bytes(asked) == pytest.approx(8 * ELEMENTS - size, abs=1)


def test_small_tensors_of_an_8_bit_optimizer_stay_in_float32() -> None:
    """At rank 1 only the wide sides of the feed-forward part reach 4,096 elements."""
    asked = setup(lora=LoraConfig(rank=1, target_modules=LLAMA_TARGETS), optimizer="adamw_8bit")
    sizes = [side for linear in LLAMA_1B.linears for side in (linear.inputs, linear.outputs)]
    wanted = sum(2 * (4 if size < 4096 else 1 + 4 / 256) * size for size in sizes) * LLAMA_1B.num_layers
    assert optimizer_bytes(asked, coefficients()) == pytest.approx(wanted)


def test_dora_trains_a_magnitude_per_output() -> None:
    plain, asked = setup(), setup(lora=DORA)
    assert asked.trained_parameters - plain.trained_parameters == OUTPUTS
    more = disk.saved_adapter_bytes(asked) - disk.saved_adapter_bytes(plain)
    assert 4 * OUTPUTS < more < 4 * OUTPUTS + 160 * 7 * LLAMA_1B.num_layers
    work = StepWork(micro_batches=2, tokens=4096, squares=4096 * 512, label_tokens=800)
    before, after = (dict(zip(TERMS, amounts(each, work), strict=True)) for each in (plain, asked))
    assert after["compute"] > before["compute"]
    assert after["weights"] > before["weights"]


def test_an_optimizer_of_many_kernels_takes_the_host_longer() -> None:
    work = StepWork(micro_batches=1, tokens=2048, squares=2048 * 512, label_tokens=400)
    launch = TERMS.index("launch")
    found = [amounts(setup(optimizer=name), work)[launch] for name in ("adamw", "adamw_8bit", "adafactor", "muon")]
    assert found == sorted(found)
    assert found[-1] - found[0] == pytest.approx(LLAMA_1B.num_layers * 28 * 14 / 286)


@parametrize(
    "changes",
    {"quantization": "nf4"},
    {"quantization": "int8"},
    {"optimizer": "adamw_8bit"},
    {"optimizer": "adafactor"},
    {"optimizer": "muon"},
    {"lora": DORA},
    ids=str,
)
def test_past_runs_with_another_setting_are_not_the_same(changes: dict[str, Any]) -> None:
    plain, asked = setup(), setup(**changes)
    assert evidence_memory.stack_key(plain) != evidence_memory.stack_key(asked)
    keys = [(points.stack_key(each), points.variant_key(each)) for each in (plain, asked)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("lora", [LoraConfig(rank=RANK, target_modules=LLAMA_TARGETS), DORA])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_a_record_of_a_run_has_the_setup_that_was_planned(quantization: Any, lora: LoraConfig) -> None:
    """What the planner compares with: method, kind of adapter and form of the base."""
    train = TrainConfig(quantization=quantization, lora=lora)
    record = said()
    facts = replace(record.training, method=method_fact(train), quantization=quantization_fact(train))
    found = to_training_setup(replace(record, origin="touchline", training=facts), lambda name: LLAMA_1B)
    assert not isinstance(found, Missing)
    planned = setup(quantization=quantization, lora=lora)
    names = ("method", "variant", "int8_base", "nested_scales")
    assert [getattr(found, name) for name in names] == [getattr(planned, name) for name in names]


def test_a_4_bit_base_instead_of_an_8_bit_one_is_worth_considering() -> None:
    asked = setup(quantization="int8")
    (change,) = [each for each in what_ifs(asked, BATCH, coefficients(), None) if "NF4" in each.change]
    assert change.allocated_gib is not None
    smaller = replace(asked, method="qlora", int8_base=False)
    assert change.allocated_gib * 2**30 == pytest.approx(peak_parts(smaller, BATCH, coefficients()).total)


MIB = 2**20


@parametrize("shape, rank", (LLAMA_1B, 4), (LLAMA_1B, 64), (LLAMA_3B, 4), (LLAMA_3B, 64))
def test_the_seeds_adapters_come_out(shape: ModelShape, rank: int) -> None:
    """Seed 002's adapters: q, v, o and the feed-forward part."""
    exact = {
        ("Llama-3.2-1B", 4): 5.06,
        ("Llama-3.2-1B", 64): 81.0,
        ("Llama-3.2-3B", 4): 10.72,
        ("Llama-3.2-3B", 64): 171.5,
    }
    elements = sum(rows * columns for _, rows, columns in disk.adapter_tensors(shape, rank, QVO_MLP))
    assert elements == shape.adapter_parameters(rank, QVO_MLP)
    assert 2 * elements / MIB == pytest.approx(exact[shape.name, rank], abs=0.01)


def test_a_file_of_our_own_trainer() -> None:
    """`adapter_model.safetensors` of a run on SmolLM2-135M-Instruct, rank 4, all linear layers, float32."""
    assert disk.adapter_file_bytes(SHAPES["SmolLM2-135M"], 4, LLAMA_TARGETS, "float32") == 4938648


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("targets", [("q_proj",), LLAMA_TARGETS])
def test_a_safetensors_file_has_that_size(tmp_path: Path, dtype: Dtype, rank: int, targets: tuple[str, ...]) -> None:
    shape = replace(SHAPES["SmolLM2-135M"], num_layers=3)
    tensors = {name: np.zeros((rows, c), dtype=dtype) for name, rows, c in disk.adapter_tensors(shape, rank, targets)}
    path = tmp_path / "adapter_model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    assert path.stat().st_size == disk.adapter_file_bytes(shape, rank, targets, dtype)


def test_a_whole_model_is_its_parameters() -> None:
    assert disk.model_bytes(LLAMA_1B, "bfloat16") == 2 * 1_235_814_400
    assert disk.model_bytes(LLAMA_3B, "float32") == 4 * 3_212_749_824


SETUP = replace(LORA, backend="peft")


def test_sizes_of_what_runs_leave() -> None:
    """Measured: adapter 4,941,976, optimizer 9,952,536, generators 5,128 and state.json 932 bytes."""
    setup = replace(SETUP, shape=SHAPES["SmolLM2-135M"], rank=4, target_modules=LLAMA_TARGETS, adapter_dtype="float32")
    assert disk.resume_bytes(setup) == pytest.approx(4941976 + 9952536 + 5128 + 932, rel=0.001)
    # Seed 002: three epochs of adapters alone are 246 MB, of merged models 7.5 GB.
    none, three = (disk.disk_estimate(SETUP, save="adapter", checkpoints=each, steps=1500).value for each in (0, 3))
    assert three - none == pytest.approx(3 * 84.96, rel=0.01)
    merged = disk.disk_estimate(SETUP, save="merged", checkpoints=3, steps=1500)
    assert merged.value / 1000 == pytest.approx(7.42, abs=0.05)
    assert merged.low <= merged.value <= merged.high
    with pytest.raises(ValueError, match="is not possible with"):
        disk.disk_estimate(SETUP, save="full", checkpoints=1, steps=1)
    full = replace(SETUP, method="full", rank=0, target_modules=())
    with pytest.raises(ValueError, match="is not possible with"):
        disk.disk_estimate(full, save="adapter", checkpoints=1, steps=1)
    none, one = (disk.disk_estimate(full, save="full", checkpoints=each, steps=1).value for each in (0, 1))
    assert disk.resume_bytes(full) / 1e6 == pytest.approx(3 * (one - none), rel=0.001)


@given(checkpoints=st.integers(0, 50), steps=st.integers(0, 100_000), tokenizer=st.integers(0, 20_000_000))
def test_more_of_anything_takes_more(checkpoints: int, steps: int, tokenizer: int) -> None:
    now, more = (
        disk.disk_estimate(
            SETUP, save="adapter", checkpoints=checkpoints + by, steps=steps + by, tokenizer_bytes=tokenizer
        )
        for by in (0, 1)
    )
    assert 0 <= now.low <= now.value <= now.high
    assert more.value > now.value


SMALL = replace(
    LORA,
    backend="trl",
    rank=16,
    target_modules=LLAMA_TARGETS,
    adapter_dtype="float32",
    gradient_checkpointing=True,
    release="0.9",
)
ROWS = MicroBatch(rows=4, width=2048, label_tokens=8192)


def counted(order: tuple[int, ...]) -> float:
    """The sum of the sizes that outgrow all before them, over the largest."""
    return sum(each for at, each in enumerate(order) if each > max(order[:at], default=0)) / max(order)


@parametrize("sizes", (5,), (3, 3, 3), (1, 2, 3, 4), (7, 7, 2, 9, 1), (10, 9, 9, 9, 1), (100, 99, 1, 1, 1, 2))
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
    assert isinstance(coefficients, MemoryCoefficients)
    batch = replace(ROWS, rows=rows, label_tokens=rows * 2048)
    answer = memory_estimate(SMALL, batch, coefficients=coefficients, gpu=found, outgrown=outgrown)
    assert answer.process.high <= max(found.capacity_gib, estimate_plain(rows, found, coefficients))
    return answer.reserved.value, answer.reserved.high, answer.verdict


def test_a_process_much_larger_than_the_verdict_counts_says_why() -> None:
    found, coefficients = find_gpu("A100-80GB"), memory_coefficients("trl")
    assert isinstance(found, Gpu)
    assert isinstance(coefficients, MemoryCoefficients)
    words = [
        memory_estimate(SMALL, ROWS, coefficients=coefficients, gpu=found, outgrown=outgrown).assumption
        for outgrown in ((1.0, 1.0), (6.0, 6.0))
    ]
    assert "PyTorch keeps from smaller micro-batches" not in words[0]
    assert "PyTorch keeps from smaller micro-batches" in words[1]


def estimate_plain(rows: int, gpu: Gpu, coefficients: MemoryCoefficients) -> float:
    batch = replace(ROWS, rows=rows, label_tokens=rows * 2048)
    return memory_estimate(SMALL, batch, coefficients=coefficients, gpu=gpu).process.high


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
    assert read_lengths(str(tmp_path / "pipe")) == "it is not a text file"
    assert read_lengths("/dev/zero") == "it is not a text file"
