"""Planner parts that backends share."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from touchline.backends.capabilities import Capabilities
from touchline.backends.config_table import method_of
from touchline.backends.protocol import ExampleLengths, FixedSetting
from touchline.backends.registry import traits_of
from touchline.core.estimate import Dtype, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings, settings_of
from touchline.experiment.experiment import LoraConfig, TrainConfig

_OPTIMIZER_SETTINGS = {
    "adafactor": (),
    "muon": (FixedSetting("train.optimizer_momentum", "0.95"),),
}
"""By optimizer, if it is not a form of AdamW."""


def resolve_base_dtype(train: TrainConfig, machine: TargetMachine) -> Dtype:
    """Return the dtype of the base; `auto` becomes the one that the machine is fast at."""
    return machine.base_dtype if train.base_dtype == "auto" else train.base_dtype


def resolve_adapter_dtype(train: TrainConfig, machine: TargetMachine, capabilities: Capabilities) -> TrainConfig:
    """Return a training with `lora.dtype: auto` resolved: to the base's dtype if the trainer has one for both."""
    if train.lora.dtype != "auto":
        return train
    fast = capabilities.one_dtype and resolve_base_dtype(train, machine) == "bfloat16"
    return replace(train, lora=replace(train.lora, dtype="bfloat16" if fast else "float32"))


def dtypes_of(train: TrainConfig, machine: TargetMachine, capabilities: Capabilities) -> tuple[Dtype, Dtype]:
    """Return the dtypes of the base and of the trained weights of a resolved training."""
    base = train.trained_dtype if capabilities.one_dtype else resolve_base_dtype(train, machine)
    return base, train.trained_dtype


def whole_alpha(lora: LoraConfig) -> float | int:
    """Return the adapter's alpha, without a fraction of zero."""
    alpha = lora.resolved_alpha
    return int(alpha) if alpha.is_integer() else alpha


def training_setup(
    backend: str, train: TrainConfig, shape: ModelShape, machine: TargetMachine, devices: int
) -> TrainingSetup:
    """Return what memory and time depend on apart from the batch. Backends replace what differs.

    Args:
        devices: data-parallel size.
    """
    bits, whole = {"nf4": 4, "int8": 8}.get(train.quantization), train.trains_all
    return TrainingSetup(
        shape=shape,
        backend=backend,
        method=method_of(adapter=not whole, bits=bits),
        rank=0 if whole else train.lora.rank,
        target_modules=() if whole else tuple(train.lora.target_modules),
        base_dtype=resolve_base_dtype(train, machine),
        adapter_dtype=train.trained_dtype,
        optimizer=train.optimizer,
        gradient_checkpointing=train.gradient_checkpointing,
        dropout=0.0 if whole else train.lora.dropout,
        accumulates=train.micro_batch_size != train.global_batch_size // devices,
        variant="dora" if train.lora.dora and not whole else "lora",
        int8_base=bits == 8,
        nested_scales=True if bits == 4 else None,
        attention="eager" if train.attention == "eager" else "fused",
        compiled=train.compile,
        loss="fused" if train.kernels == "liger" else None,
        shards=devices if train.is_sharded or traits_of(backend).shards_by_itself else 1,
    )


def forecast_batches(
    batching: Batching, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int
) -> BatchForecast | Missing:
    """Return the micro-batches that a batching makes of a training split.

    Args:
        batching: the trainer's batching.
        seed: seed of the order.
        devices: data-parallel size.
    """
    if train.micro_batch_size == "auto" or train.packed == "auto":
        return Missing(missing="micro_batch_size or packed is not resolved")
    if not len(lengths.total):
        return Missing(missing="no examples")
    settings = settings_of(train, seed=seed, devices=devices)
    return _simulated(batching, settings, lengths.total.tobytes(), lengths.answer.tobytes())


# Runs of equal data ask for the same, and a command that compares settings asks again with each plan.
@functools.lru_cache(maxsize=32)
def _simulated(batching: Batching, settings: BatchSettings, total: bytes, labels: bytes) -> BatchForecast:
    return batching.forecast(np.frombuffer(total, np.uint32), settings, np.frombuffer(labels, np.uint32))


def common_fixed_settings(train: TrainConfig) -> tuple[FixedSetting, ...]:
    """Return the loss and the settings of the optimizer that experiment.yaml cannot change."""
    betas = (FixedSetting("train.optimizer_betas", "0.9, 0.999 (eps 1e-8)"),)
    return (
        FixedSetting("train.loss", "cross-entropy, mean over the label tokens of a step"),
        *_OPTIMIZER_SETTINGS.get(train.optimizer, betas),
    )
