"""Disk usage of a training, file by file: exact for adapters, within a few kilobytes for the rest."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator

from touchline.core.estimate import Dtype, Estimate, EvidenceLevel, TrainingSetup
from touchline.core.shape import ModelShape
from touchline.estimate.coefficients import (
    ANSWER_BYTES,
    CHECKPOINT_FILES_BYTES,
    EVALUATION_BYTES,
    METRICS_ROW_BYTES,
    RANDOM_STATE_BYTES,
    RUN_FILES_BYTES,
)
from touchline.estimate.layers import FLOAT, norms_of, role_of, size_of
from touchline.estimate.parts import state_bytes
from touchline.experiment.experiment import CheckpointKind

_MEGA = 1e6
_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_PREFIX = "base_model.model.model.layers"
"""How PEFT names the layers of a Llama-like model."""


def adapter_tensors(
    shape: ModelShape, rank: int, target_modules: tuple[str, ...], *, dora: bool = False
) -> Iterator[tuple[str, int, int]]:
    """Yield name, rows and columns of an adapter's tensors, as PEFT names them in its file; a vector has no columns."""
    for layer in range(shape.num_layers):
        for linear in shape.linears:
            if linear.name in target_modules:
                part = "self_attn" if role_of(linear, shape).startswith("attention") else "mlp"
                path = f"{_PREFIX}.{layer}.{part}.{linear.name}"
                yield f"{path}.lora_A.weight", rank, linear.inputs
                yield f"{path}.lora_B.weight", linear.outputs, rank
                if dora:
                    yield f"{path}.lora_magnitude_vector", linear.outputs, 0


@functools.lru_cache(maxsize=512)  # asked again for every learning rate and length of a sweep
def adapter_file_bytes(
    shape: ModelShape, rank: int, target_modules: tuple[str, ...], dtype: Dtype, *, dora: bool = False
) -> int:
    """Return the bytes of `adapter_model.safetensors` with its header, exact for Llama-like names.

    The file is eight bytes of length, a JSON header padded to a multiple of eight, and the tensors (its README,
    "Format").
    """
    tensors = sorted(adapter_tensors(shape, rank, target_modules, dora=dora))
    size = size_of(dtype)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, rows, columns in tensors:
        start, end = end, end + size * rows * max(columns, 1)
        dimensions = [rows, columns] if columns else [rows]
        header[name] = {"dtype": _TYPES[dtype], "shape": dimensions, "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8 + end


def saved_adapter_bytes(setup: TrainingSetup) -> int:
    """Return the bytes of the adapter file of a training."""
    dora = setup.variant == "dora"
    return adapter_file_bytes(setup.shape, setup.rank, setup.target_modules, setup.adapter_dtype, dora=dora)


def model_bytes(shape: ModelShape, dtype: Dtype) -> int:
    """Return the bytes of a model's shards, without their headers of some hundred bytes per tensor."""
    return shape.num_parameters * size_of(dtype)


def resume_bytes(setup: TrainingSetup) -> int:
    """Return the bytes of a training state: trained parameters, the optimizer's states, step counts, RNG states."""
    element = size_of(setup.adapter_dtype)
    if setup.method == "full":
        tensors = setup.shape.num_layers * (len(setup.shape.linears) + norms_of(setup.shape)) + 2
    else:
        layers = sum(linear.name in setup.target_modules for linear in setup.shape.linears)
        tensors = 2 * setup.shape.num_layers * max(layers, 1)
    # Names of some 70 letters with shape and offsets in the header; three entries for each parameter's state.
    headers = tensors * (130 + 3 * 145) + tensors * FLOAT
    states = math.ceil(state_bytes(setup, element))
    return setup.trained_parameters * element + states + headers + RANDOM_STATE_BYTES


def disk_estimate(
    setup: TrainingSetup,
    *,
    save: CheckpointKind,
    checkpoints: int,
    steps: int,
    tokenizer_bytes: int = 0,
    merged_dtype: Dtype | None = None,
    evaluations: int = 0,
    answers: int = 0,
) -> Estimate:
    """Estimate the disk usage of a complete run, whose training state is deleted.

    Args:
        steps: optimizer steps, each with a row in metrics.jsonl.
        tokenizer_bytes: size of the tokenizer's files, which every checkpoint gets a copy of.
        merged_dtype: element type of merged weights; none: the base's.

    Raises ValueError: an adapter is to be saved where all is trained, or a merged one.
    """
    if (save == "full") != (setup.method == "full"):
        raise ValueError(f"a checkpoint of kind {save!r} is not possible with method {setup.method!r}")
    if save == "adapter":
        each = float(saved_adapter_bytes(setup))
    else:
        each = float(model_bytes(setup.shape, merged_dtype or setup.weights_dtype))
    each += tokenizer_bytes + CHECKPOINT_FILES_BYTES
    logs = (steps * METRICS_ROW_BYTES + RUN_FILES_BYTES) / _MEGA
    answered = evaluations * (answers * ANSWER_BYTES + EVALUATION_BYTES) / _MEGA
    total = sum([checkpoints * each / _MEGA, logs, answered])
    # Rows grow with their numbers' digits, answers with the prompts they are kept with, and what a scheduler writes
    # next to them is not ours to know.
    spare = 2 * (logs + answered) + 0.002 * total
    return Estimate(
        value=total,
        unit="MB",
        low=max(0.0, total - spare / 4),
        high=total + spare,
        method=f"{checkpoints} x {save}, and logs, by file format",
        rung=EvidenceLevel.NOTHING,
        aggregation="sum",
    )
