"""The simulation itself, live: three small cells in processes of their own."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_TARGETS, QVO_MLP, llama_like

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.quantity import Missing
from touchline.estimate.coefficients_memory import WORKSPACE_BYTES
from touchline.estimate.local.simulating import request_for, simulate
from touchline.estimate.parts import peak_parts
from touchline.estimate.simulation import SimulationRequest, SimulationResult

SETUP = TrainingSetup(
    shape=LLAMA_1B,
    backend="trl",
    method="lora",
    rank=64,
    target_modules=QVO_MLP,
    base_dtype="bfloat16",
    adapter_dtype="bfloat16",
)
TINY = dataclasses.replace(
    SETUP,
    backend="peft",
    shape=llama_like(
        "tiny", layers=3, hidden=128, intermediate=320, heads=8, kv_heads=2, vocab=4000, tied=False, context=512
    ),
    target_modules=LLAMA_TARGETS,
    rank=8,
    adapter_dtype="float32",
)


def coefficients_of(name: str) -> MemoryCoefficients:
    found = memory_coefficients(name)
    assert isinstance(found, MemoryCoefficients)
    return found


def batch(rows: int, width: int, labels: int | None = None) -> MicroBatch:
    return MicroBatch(rows=rows, width=width, label_tokens=rows * width if labels is None else labels)


def request(setup: TrainingSetup, its: MicroBatch, name: str) -> SimulationRequest:
    found = request_for(setup, its, coefficients_of(name))
    assert isinstance(found, SimulationRequest)
    return found


@pytest.mark.parametrize(
    ("setup", "its", "name"),
    [
        (SETUP, batch(4, 512), "trl"),
        (dataclasses.replace(SETUP, backend="torchtune", gradient_checkpointing=True), batch(2, 1024), "torchtune"),
        (TINY, batch(8, 256, 300), "peft"),
    ],
    ids=["Trainer", "torchtune with checkpointing", "ours"],
)
def test_the_simulation_meets_the_closed_form(setup: TrainingSetup, its: MicroBatch, name: str) -> None:
    result = simulate(request(setup, its, name))
    assert isinstance(result, SimulationResult), result
    coefficients = dataclasses.replace(coefficients_of(name), rope_table=False)
    closed = peak_parts(setup, its, coefficients).total - WORKSPACE_BYTES
    assert closed == pytest.approx(result.peak_bytes, rel=0.015)
    assert result.parameters == setup.shape.num_parameters
    assert result.resident_bytes <= result.kept_bytes <= result.peak_bytes
    assert set(result.versions) == {"torch", "transformers", "peft"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"method": "qlora"}, "4-bit"), ({"compiled": True}, "kernels"), ({"loss": "fused"}, "fused loss")],
)
def test_what_cannot_be_simulated_is_missing(changes: dict[str, object], words: str) -> None:
    found = request_for(dataclasses.replace(SETUP, **changes), batch(1, 8), coefficients_of("trl"))  # type: ignore[arg-type]
    assert isinstance(found, Missing)
    assert words in found.missing


def test_a_simulation_that_takes_too_long_is_missing() -> None:
    found = simulate(request(SETUP, batch(1, 8), "trl"), timeout=0.01)
    assert isinstance(found, Missing)
    assert "took longer" in found.missing


def test_a_simulation_that_dies_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C++ side of torch can abort the process; then there is no value, and the reason is told."""

    def die(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(args=[], returncode=-6, stdout=b"", stderr=b"terminate called\n")

    monkeypatch.setattr(subprocess, "run", die)
    found = simulate(request(SETUP, batch(1, 8), "trl"))
    assert isinstance(found, Missing)
    assert "status -6: terminate called" in found.missing


def test_a_fault_of_the_simulation_is_told() -> None:
    """A model that is not Llama-like, without its config."""
    shape = dataclasses.replace(LLAMA_1B, gated=False)
    found = simulate(request(dataclasses.replace(SETUP, shape=shape), batch(1, 8), "trl"))
    assert isinstance(found, Missing)
    assert "config" in found.missing


def test_planning_does_not_load_torch() -> None:
    """Neither the estimates nor the start of a simulation."""
    code = (
        "import sys, touchline.estimate.memory, touchline.estimate.disk, touchline.estimate.cpu_memory, "
        "touchline.estimate.local.simulating; print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
