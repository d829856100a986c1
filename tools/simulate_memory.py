"""Simulated peaks of a grid of training steps, for `tests/data/simulated/peaks.csv`.

    python -m tools.simulate_memory > tests/data/simulated/peaks.csv

Needs torch and some ten minutes on one core, no GPU. The closed form is held against these figures.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import sys
import warnings
from collections.abc import Iterator

from tests.estimate.made_shapes import LLAMA_1B, LLAMA_3B, LLAMA_8B, QVO_MLP

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.estimate.local.simulating import request_for
from touchline.estimate.simulation import SimulationRequest
from touchline.train.simulate import simulate

HEADER = ("model", "backend", "method", "adapter_dtype", "attention", "checkpointing", "rows", "width", "labels")
BATCHES = ((1, 64), (4, 512), (1, 2048), (16, 2048))


def cells() -> Iterator[tuple[TrainingSetup, MicroBatch]]:
    """The grid; torchtune last, since its keys and values are expanded for the rest of the process."""
    for backend, shape in itertools.product(("trl", "peft", "torchtune"), (LLAMA_1B, LLAMA_3B, LLAMA_8B)):
        for (rows, width), checkpointing in itertools.product(BATCHES, (False, True)):
            for dtype in ("bfloat16", "float32") if shape is LLAMA_1B and backend == "trl" else ("bfloat16",):
                yield (
                    TrainingSetup(
                        shape=shape,
                        backend=backend,
                        method="lora",
                        rank=64,
                        target_modules=QVO_MLP,
                        base_dtype="bfloat16",
                        adapter_dtype="float32" if backend == "peft" else dtype,
                        gradient_checkpointing=checkpointing,
                    ),
                    MicroBatch(rows=rows, width=width, label_tokens=rows * width // (8 if backend == "peft" else 1)),
                )
        if backend == "trl":
            for trained in ("bfloat16", "float32"):
                full = TrainingSetup(
                    shape=shape,
                    backend=backend,
                    method="full",
                    rank=0,
                    target_modules=(),
                    base_dtype="bfloat16",
                    adapter_dtype=trained,
                )
                yield full, MicroBatch(rows=2, width=1024, label_tokens=2048)
                yield (
                    dataclasses.replace(full, gradient_checkpointing=True),
                    MicroBatch(rows=8, width=2048, label_tokens=16384),
                )


def main() -> int:
    """Print the grid's peaks."""
    warnings.simplefilter("ignore")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*HEADER, "resident_bytes", "peak_bytes"))
    for setup, batch in cells():
        coefficients = memory_coefficients(setup.backend)
        assert isinstance(coefficients, MemoryCoefficients)
        request = request_for(setup, batch, coefficients)
        assert isinstance(request, SimulationRequest)
        result = simulate(request)
        writer.writerow(
            (
                *(setup.shape.name, setup.backend, setup.method, setup.adapter_dtype, setup.attention),
                *(int(setup.gradient_checkpointing), batch.rows, batch.width, batch.label_tokens),
                *(result.resident_bytes, result.peak_bytes),
            )
        )
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
