"""The closed form against simulations of the trainers' own code: `python -m benchmarks.simulate_memory`."""

import csv
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from tests.estimate.made_shapes import LORA, QVO_MLP, SHAPES

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import Attention, Dtype, Method, MicroBatch
from touchline.estimate.coefficients_memory import WORKSPACE_BYTES
from touchline.estimate.parts import peak_parts

pytestmark = pytest.mark.planning

PEAKS = Path(__file__).resolve().parents[1] / "data" / "simulated" / "peaks.csv"


def errors() -> Iterator[tuple[str, str, bool, float]]:
    """(model, backend, whether checkpointed, closed form over simulation, less one)."""
    with PEAKS.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found = memory_coefficients(row["backend"])
            assert isinstance(found, MemoryCoefficients)
            full = row["method"] == "full"
            setup = replace(
                LORA,
                shape=SHAPES[row["model"]],
                backend=row["backend"],
                method=cast(Method, row["method"]),
                rank=0 if full else 64,
                target_modules=() if full else QVO_MLP,
                adapter_dtype=cast(Dtype, row["adapter_dtype"]),
                gradient_checkpointing=row["checkpointing"] == "1",
                attention=cast(Attention, row["attention"]),
            )
            batch = MicroBatch(rows=int(row["rows"]), width=int(row["width"]), label_tokens=int(row["labels"]))
            # A simulation has neither cuBLAS nor torchtune's table of positions.
            table = 4 * setup.shape.context_length * setup.shape.head_dim if found.rope_table else 0
            closed = peak_parts(setup, batch, found).total - WORKSPACE_BYTES - table
            yield row["model"], row["backend"], setup.gradient_checkpointing, closed / int(row["peak_bytes"]) - 1


def test_the_closed_form_is_the_simulation_within_a_hundredth_and_a_half() -> None:
    """1B, 3B, 8B; 1 x 64 to 16 x 2048; with checkpointing and without; three trainers' loops."""
    found = list(errors())
    assert len(found) == 92
    assert {model for model, _, _, _ in found} == {"Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"}
    assert {backend for _, backend, _, _ in found} == {"trl", "peft", "torchtune"}
    assert {checkpointed for _, _, checkpointed, _ in found} == {True, False}
    assert [item for item in found if abs(item[3]) > 0.015] == []
    assert statistics.mean(abs(item[3]) for item in found) < 0.003
