"""The terms of a step's time: what each grows with, and its rate by the machine's published figures.

step      once an optimizer step: data, clipping, optimizer, logging
launch    blocks x micro-batches, by their kernels: the host that launches these
compute   floating-point operations
traffic   bytes of activations that kernels read and write element by element
weights   bytes of weights read, turned back from 4 bits, and of the optimizer's states
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from touchline.core.estimate import TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.estimate.coefficients import (
    CPU_BANDWIDTH,
    CPU_LAUNCH,
    CPU_STEP,
    CPU_THREAD_FLOPS,
    CPU_THREADS_POWER,
    FLOAT16_TFLOPS,
    FLOAT32_SHARE,
    GPU_EFFICIENCIES,
    GPU_EFFICIENCY,
    GPU_LAUNCH,
    GPU_OVERLAP,
    GPU_STEP,
    GPU_TRAFFIC,
    GPU_WEIGHTS,
    MODEL_SIGMA,
    NF4_SIGMA,
    PRIOR_WEIGHT,
    RATE_SIGMA,
    SETTING_SIGMA,
    VARIANT_SIGMA,
)
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.layers import FLOAT, size_of
from touchline.estimate.regression import Rates
from touchline.estimate.work import StepWork, passes, step_flops

TERMS: Final = ("step", "launch", "compute", "traffic", "weights")
_TERA: Final = 1e12
_GIGA: Final = 1e9
_STREAM: Final = 20
"""Reads and writes of the stream's width in a block's forward pass: two norms in float32, two sums, four inputs and two
outputs of matrices."""
_INNER: Final = 8
"""The same of the feed-forward width: outputs of two matrices, the activation, the product, an input."""
_QUERIES: Final = 8
"""The same of the queries' width: rotation, and attention's inputs and output."""
_ADAPTER_INPUT: Final = 2
"""The same of an adapted layer's input, where it is cast and multiplied once more."""
_DROPOUT: Final = 2
"""The same where dropout copies it."""
_ADAPTER_OUTPUT: Final = 3
"""The same of its output, to which the adapter's is scaled and added."""
_BLOCK_FORWARD: Final = 25
"""Kernels of a block's forward pass: two norms in six each, seven matrices, rotations, attention, sums."""
_BLOCK_BACKWARD: Final = 40
"""The same of its backward pass."""
_ADAPTER_FORWARD: Final = 9
"""The same of an adapter's forward pass: casts, dropout, two products, scale and sum."""
_ADAPTER_BACKWARD: Final = 10
"""The same of its backward pass."""
_REFERENCE_KERNELS: Final = 286.0
"""The kernels of a block of Qwen's README, LoRA on seven layers with checkpointing: what `GPU_LAUNCH` is of."""
_NF4_MOVED: Final = 8.0
"""Bytes moved a parameter and pass where a 4-bit base is turned back: half a byte read, two written, two read again,
the scales, and kernels that stay below the bandwidth."""
_INT8_MOVED: Final = 3.5
"""The same of an 8-bit base: a byte read forward; backward one read, two written, two read again."""
_DORA_MOVED: Final = 8
"""Times that an element of a layer's weight is moved in a forward pass for DoRA's norms: the product of the factors is
written, scaled, read with the weight, their sum written, read and reduced (PEFT 0.21, tuners/lora/dora.py)."""
_OPTIMIZER_KERNELS: Final = {"muon": 28, "adafactor": 24, "8bit": 1.2}
"""Kernels per trained tensor in a step, counted on torch 2.13, transformers 5.23 and bitsandbytes 0.50; AdamW takes
one for all tensors."""
_OPTIMIZER_MOVED: Final = 7
"""Times that a trained parameter's element is moved a step: weight, gradient and two states are read, three written."""


def launches(setup: TrainingSetup) -> float:
    """Return the host's work per block and micro-batch, relative to an adapter on seven layers with checkpointing.

    Kernels are counted as an eager forward and backward pass of a block launch them. The host's time grows more slowly
    than their number: a published table's single adapted layer without checkpointing and Qwen's seven with it take 110
    and 286 kernels, and 4.1 to 4.8 and 4.7 to 5.2 ms.
    """
    forward = passes(setup) - 1
    adapted = (
        0 if setup.method == "full" else sum(linear.name in setup.target_modules for linear in setup.shape.linears)
    )
    kernels = _BLOCK_FORWARD * forward + _BLOCK_BACKWARD + adapted * (_ADAPTER_FORWARD * forward + _ADAPTER_BACKWARD)
    return math.sqrt(kernels / _REFERENCE_KERNELS)


def optimizer_launches(setup: TrainingSetup) -> float:
    """Return the host's work of the optimizer's step per block, in the unit of `launches`."""
    kernels = next((count for name, count in _OPTIMIZER_KERNELS.items() if name in setup.optimizer_family), 0)
    if setup.method == "full":
        return 0.0
    adapted = sum(linear.name in setup.target_modules for linear in setup.shape.linears)
    return kernels * adapted * (3 if setup.magnitudes else 2) / _REFERENCE_KERNELS


def amounts(setup: TrainingSetup, work: StepWork) -> tuple[float, ...]:
    """Return the amount of each term in one optimizer step; shape [terms]."""
    shape, element = setup.shape, size_of(setup.base_dtype)
    widths = _STREAM * shape.hidden_size + _INNER * shape.intermediate_size + _QUERIES * shape.q_size
    if setup.method != "full":
        inputs = _ADAPTER_INPUT + (_DROPOUT if setup.dropout > 0 else 0)
        adapted = [linear for linear in shape.linears if linear.name in setup.target_modules]
        widths += sum(inputs * linear.inputs + _ADAPTER_OUTPUT * linear.outputs for linear in adapted)
    # Backward moves twice what forward does.
    activations = work.tokens * shape.num_layers * widths * element * (passes(setup) + 1)
    if setup.attention == "eager":
        # Scores, their softmax in float32 and back, each read and written, and the same backward.
        activations += work.squares * shape.num_heads * shape.num_layers * 12 * 4
    held = _NF4_MOVED if setup.method == "qlora" else _INT8_MOVED if setup.int8_base else element
    read = work.micro_batches * passes(setup) * shape.linear_parameters * held
    if setup.magnitudes:
        weights = sum(linear.inputs * linear.outputs for linear in shape.linears if linear.name in setup.target_modules)
        read += work.micro_batches * (passes(setup) - 1) * shape.num_layers * weights * element * _DORA_MOVED
    if setup.is_mixed:
        # Autocast reads the float32 weights and writes a copy in every micro-batch, and once more with checkpointing.
        read += work.micro_batches * (passes(setup) - 1) * shape.linear_parameters * (FLOAT + element)
    moved = size_of(setup.adapter_dtype) if setup.method == "full" else element
    stepped = setup.trained_parameters * moved * _OPTIMIZER_MOVED
    return (
        1.0,
        shape.num_layers * (work.micro_batches * launches(setup) + optimizer_launches(setup)),
        step_flops(setup, work).total,
        activations,
        read + stepped,
    )


def rates_of(setup: TrainingSetup, machine: TargetMachine) -> Rates | Missing:
    """Return the prior rates; missing if the machine's speed is unknown."""
    if machine.kind == "cpu":
        return _processor(setup, machine)
    gpu = find_gpu(machine.name)
    if isinstance(gpu, Missing):
        return gpu
    return _gpu(setup, gpu)


def unknown_gpu() -> Rates:
    """Return vague rates of an unknown GPU, for use with measurements on it."""
    vague = 2.0
    means = (GPU_STEP[0], GPU_LAUNCH[0], 1 / (100 * _TERA), 1 / (500 * _GIGA), 1 / (500 * _GIGA))
    return _rates("gpu", means, (GPU_STEP[1], GPU_LAUNCH[1], vague, vague, vague))


def peak_flops(machine: TargetMachine) -> float:
    """Return the peak operations per second of the machine; infinite if unknown."""
    if machine.kind == "cpu":
        return math.inf
    gpu = find_gpu(machine.name)
    if isinstance(gpu, Missing):
        return math.inf
    return (gpu.peak_tflops or FLOAT16_TFLOPS.get(gpu.name, math.inf)) * _TERA


def place(key: str) -> str:
    """Return a key that is equal for machines of the same type, whatever name the device has.

    Args:
        key: `TargetMachine.key`, or a device's name as a log gives it.
    """
    gpu = find_gpu(key)
    return gpu.name if isinstance(gpu, Gpu) else " ".join(key.lower().split())


def _gpu(setup: TrainingSetup, gpu: Gpu) -> Rates:
    share, spread = GPU_EFFICIENCIES.get(gpu.name, GPU_EFFICIENCY)
    peak = gpu.peak_tflops or FLOAT16_TFLOPS.get(gpu.name)
    if peak is None:
        peak, spread = 100.0, 2.0
    if setup.base_dtype == "float32":
        # Another unit computes it, so what tensor units reach of their peak says nothing.
        slower, vague = FLOAT32_SHARE
        share, spread = slower * GPU_EFFICIENCY[0], math.hypot(GPU_EFFICIENCY[1], vague)
    bandwidth = gpu.bandwidth_gb_s * _GIGA
    unsure = NF4_SIGMA if setup.method == "qlora" or setup.int8_base else GPU_WEIGHTS[1]
    means = (
        GPU_STEP[0],
        GPU_LAUNCH[0],
        1 / (peak * _TERA * share),
        1 / (bandwidth * GPU_TRAFFIC[0]),
        1 / (bandwidth * GPU_WEIGHTS[0]),
    )
    return _rates("gpu", means, (GPU_STEP[1], GPU_LAUNCH[1], spread, GPU_TRAFFIC[1], unsure))


def _processor(setup: TrainingSetup, machine: TargetMachine) -> Rates:
    threads = float(machine.threads_per_run or 1) ** CPU_THREADS_POWER
    speed, spread = CPU_THREAD_FLOPS[setup.base_dtype]
    bandwidth, unsure = CPU_BANDWIDTH
    per_byte = 1 / (bandwidth * threads)
    means = (CPU_STEP[0], CPU_LAUNCH[0], 1 / (speed * threads), per_byte, per_byte)
    return _rates("cpu", means, (CPU_STEP[1], CPU_LAUNCH[1], spread, unsure, unsure))


def _rates(kind: str, means: tuple[float, ...], sigmas: tuple[float, ...]) -> Rates:
    names = np.array(TERMS)
    on_gpu = kind == "gpu"
    return Rates(
        means=np.log(np.array(means)),
        sigmas=np.array(sigmas),
        # A processor computes what it has launched before it goes on.
        host=(names == "launch") & on_gpu,
        alone=(names == "step") | np.full(len(TERMS), not on_gpu),
        power=GPU_OVERLAP if on_gpu else 1.0,
        model_sigma=MODEL_SIGMA[kind],
        rate_sigma=RATE_SIGMA[kind],
        variant_sigma=VARIANT_SIGMA,
        setting_sigma=SETTING_SIGMA[kind],
        weight=PRIOR_WEIGHT[kind],
    )
