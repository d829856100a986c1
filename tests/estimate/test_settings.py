"""Each setting of a training in its estimate: parts change by the right bytes, past runs with another one differ."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_TARGETS
from tests.estimate.test_learned import said

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import get_backend, memory_coefficients
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.estimate import evidence_memory, points
from touchline.estimate.disk import resume_bytes, saved_adapter_bytes
from touchline.estimate.history_points import to_training_setup
from touchline.estimate.parts import optimizer_bytes, peak_parts, weight_bytes
from touchline.estimate.terms import TERMS, amounts
from touchline.estimate.what_if import what_ifs
from touchline.estimate.work import StepWork
from touchline.experiment.experiment import LoraConfig, TrainConfig
from touchline.history.training_form import method_fact, quantization_fact

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
    """As the backend sees a training on an A100."""
    lora = lora or LoraConfig(rank=RANK, target_modules=LLAMA_TARGETS)
    return get_backend(backend).setup(TrainConfig(lora=lora, **changes), LLAMA_1B, GPU, 512)


def coefficients(backend: str = "peft") -> MemoryCoefficients:
    found = memory_coefficients(backend)
    assert isinstance(found, MemoryCoefficients)
    return found


DORA = LoraConfig(rank=RANK, target_modules=LLAMA_TARGETS, dora=True)


@pytest.mark.parametrize("backend", ["peft", "trl"])
@pytest.mark.parametrize(
    ("quantization", "bytes_each", "bytes_an_output"),
    [("none", 2.0, 0), ("nf4", 0.5 + 1 / 64 + 4 / (64 * 256), 0), ("int8", 1.0, 4)],
)
def test_the_base_takes_what_its_quantization_says(
    backend: str, quantization: str, bytes_each: float, bytes_an_output: int
) -> None:
    """Matrices of the blocks are quantized; embedding, output layer and norms stay in 16 bits."""
    size = weight_bytes(setup(backend, quantization=quantization), coefficients(backend))
    rest = 2 * (LLAMA_1B.num_parameters - MATRICES)
    assert size == pytest.approx(MATRICES * bytes_each + OUTPUTS * bytes_an_output + rest, abs=1)


@pytest.mark.parametrize(
    ("optimizer", "size"),
    [
        ("adamw", 8 * ELEMENTS),
        # All of these tensors have 4,096 elements or more.
        ("adamw_8bit", 2 * (1 + 4 / 256) * ELEMENTS),
        ("paged_adamw_8bit", 2 * (1 + 4 / 256) * ELEMENTS),
        ("muon", 4 * ELEMENTS),
        ("adafactor", 4 * LLAMA_1B.num_layers * sum(rows + columns for rows, columns in PAIRS)),
    ],
)
def test_the_optimizers_state_is_counted_by_tensor(optimizer: str, size: float) -> None:
    plain, asked = setup(), setup(optimizer=optimizer)
    assert optimizer_bytes(asked, coefficients()) == pytest.approx(size)
    parts = [peak_parts(each, BATCH, coefficients()) for each in (plain, asked)]
    assert parts[0].total - parts[1].total == pytest.approx(8 * ELEMENTS - size)
    assert resume_bytes(plain) - resume_bytes(asked) == pytest.approx(8 * ELEMENTS - size, abs=1)


def test_small_tensors_of_an_8_bit_optimizer_stay_in_float32() -> None:
    """At rank 1 only the wide sides of the feed-forward part reach 4,096 elements."""
    asked = setup(lora=LoraConfig(rank=1, target_modules=LLAMA_TARGETS), optimizer="adamw_8bit")
    sizes = [side for linear in LLAMA_1B.linears for side in (linear.inputs, linear.outputs)]
    wanted = sum(2 * (4 if size < 4096 else 1 + 4 / 256) * size for size in sizes) * LLAMA_1B.num_layers
    assert optimizer_bytes(asked, coefficients()) == pytest.approx(wanted)


def test_dora_trains_a_magnitude_per_output() -> None:
    plain, asked = setup(), setup(lora=DORA)
    assert asked.trained_parameters - plain.trained_parameters == OUTPUTS
    more = saved_adapter_bytes(asked) - saved_adapter_bytes(plain)
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


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": "nf4"},
        {"quantization": "int8"},
        {"optimizer": "adamw_8bit"},
        {"optimizer": "adafactor"},
        {"optimizer": "muon"},
        {"lora": DORA},
    ],
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
    smaller = dataclasses.replace(asked, method="qlora", int8_base=False)
    assert change.allocated_gib * 2**30 == pytest.approx(peak_parts(smaller, BATCH, coefficients()).total)
