"""Planner parts that backends share: limits of batch and length, refused combinations, the training's setup."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from touchline.backends.config_table import method_of
from touchline.backends.protocol import Capabilities, ExampleLengths, FixedSetting, error, unsupported
from touchline.backends.registry import traits_of
from touchline.backends.simulation import planned_batches
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import Dtype, TrainingSetup
from touchline.core.finding import Finding
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings, largest_divisor, settings_of
from touchline.experiment.plan import BatchSummary
from touchline.experiment.training import LoraConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """Package with kernels for GPUs."""

    setting: str
    module: str
    package: str
    without: str


_FLASH = Kernels(
    setting="train.attention: flash_attention_2",
    module="flash_attn",
    package="flash-attn",
    without="train.attention=sdpa",
)
_LIGER = Kernels(
    setting="train.kernels: liger", module="liger_kernel", package="liger-kernel", without="train.kernels=none"
)


def needed_kernels(train: TrainConfig) -> tuple[Kernels, ...]:
    """Return the packages that a training needs on its GPUs."""
    flash = (_FLASH,) if train.attention == "flash_attention_2" else ()
    return (*flash, _LIGER) if train.kernels == "liger" else flash


MOST_DEVICES = 8
"""Most devices of a training in data parallel: those of one node."""
_LIGER_MODELS = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "granite", "olmo2")
"""Model types that liger-kernel has a form of, in all trainers that take it."""


def limit_faults(model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
    """Return an error for each batch size, length or kind of model that cannot be trained as written."""
    faults: list[Finding] = []
    # Whether the backend trains vision-language models is its capability.
    kinds = ("ForCausalLM", "ForConditionalGeneration") if model.vision else ("ForCausalLM",)
    if "config.json" not in model.absent and not model.architecture.endswith(kinds):
        faults.append(error("models", f"{model.name} is a {model.architecture}, expected a causal language model"))
    whole = train.global_batch_size
    if whole % devices:
        fewer = largest_divisor(whole, devices)
        faults.append(
            error(
                "compute.gpus_per_run",
                f"global_batch_size {whole} is not a multiple of gpus_per_run {devices}",
                f"compute.gpus_per_run: {fewer}, or train.global_batch_size: {whole + -whole % devices}",
                code="TR001",
            )
        )
    elif isinstance(train.micro_batch_size, int) and whole % (train.micro_batch_size * devices):
        times = f" x gpus_per_run {devices}" if devices > 1 else ""
        faults.append(
            error(
                "train.micro_batch_size",
                f"global_batch_size {whole} is not a multiple of micro_batch_size {train.micro_batch_size}{times}",
                f"micro_batch_size: {largest_divisor(whole // devices, train.micro_batch_size)}",
                code="TR001",
            )
        )
    faults += _liger_faults(model, train)
    if train.max_seq_len > model.context_length:
        faults.append(
            error(
                "train.max_seq_len",
                f"max_seq_len {train.max_seq_len} is longer than the context of {model.name}, "
                f"{model.context_length} tokens",
                f"max_seq_len: {model.context_length}",
                code="TR002",
            )
        )
    return tuple(faults)


def full_faults(model: ModelInfo, train: TrainConfig) -> tuple[Finding, ...]:
    """Return an error for each setting that does not go with training all weights."""
    pairs = (
        (
            train.quantization != "none",
            "quantization",
            f"quantization: {train.quantization} with method: full: quantized weights cannot be trained",
            "method: lora, or quantization: none",
        ),
        (
            train.optimizer == "muon",
            "optimizer",
            "muon with method: full: Muon updates matrices only, and norms are vectors",
            "optimizer: adamw",
        ),
        (
            model.vision,
            "method",
            f"method: full for {model.name}, a vision-language model: its vision tower stays frozen",
            "method: lora",
        ),
    )
    return _refused(train, pairs) if train.trains_all else ()


def compile_faults(model: ModelInfo, train: TrainConfig) -> tuple[Finding, ...]:
    """Return an error for each setting that was not tried on compiled layers."""
    pairs = (
        (
            train.quantization != "none",
            "compile",
            f"compile: true with quantization: {train.quantization}: torch.compile does not support its kernels",
            "compile: false, or quantization: none",
        ),
        (
            model.vision,
            "compile",
            f"compile: true for {model.name}, a vision-language model: images have as many shapes as sizes",
            "compile: false",
        ),
    )
    return _refused(train, pairs) if train.compile else ()


def _liger_faults(model: ModelInfo, train: TrainConfig) -> list[Finding]:
    if train.kernels != "liger":
        return []
    found = []
    if model.model_type not in _LIGER_MODELS:
        known = ", ".join(_LIGER_MODELS)
        message = f"kernels: liger for {model.name}, a {model.model_type or 'model of unknown type'}, expected {known}"
        found.append(error("train.kernels", message, "kernels: none"))
    if train.label_smoothing:
        message = "kernels: liger with label_smoothing, which needs the logits that liger does not keep"
        found.append(error("train.kernels", message, "kernels: none"))
    return found


def adapter_faults(train: TrainConfig) -> tuple[Finding, ...]:
    """Return an error for each pair of settings that PEFT's adapters or their optimizer do not support together."""
    if train.trains_all:
        return ()
    lora = train.lora
    changes_base = lora.init in ("pissa", "olora")
    pairs = (
        (
            changes_base and train.quantization != "none",
            "lora.init",
            f"{lora.init} with quantization: {train.quantization}: it starts from the base's full weights",
            "init: default",
        ),
        (
            changes_base and lora.dora,
            "lora.init",
            f"{lora.init} with dora: its changes to the base cannot be part of a DoRA adapter",
            "init: default",
        ),
        (
            lora.dora and train.quantization == "int8",
            "lora.dora",
            "dora with quantization: int8: PEFT does not compute the norms of 8-bit weights",
            "quantization: nf4",
        ),
        (
            lora.dora and train.optimizer == "muon",
            "optimizer",
            "muon with dora: Muon updates matrices only, and DoRA's magnitudes are vectors",
            "optimizer: adamw",
        ),
    )
    return _refused(train, pairs)


def sharding_faults(model: ModelInfo, train: TrainConfig, devices: int) -> tuple[Finding, ...]:
    """Return an error for each setting that does not go with `sharding: full`, or if there is nothing to share."""
    if not train.is_sharded:
        return ()
    pairs = (
        (
            train.quantization != "none",
            f"quantization: {train.quantization} with sharding: full: quantized weights cannot be shared",
            "quantization: none, or sharding: none",
        ),
        (
            train.optimizer != "adamw",
            f"{train.optimizer} with sharding: full: tried with AdamW only",
            "optimizer: adamw",
        ),
        (train.compile, "compile: true with sharding: full: not tried", "compile: false"),
        (
            train.kernels == "liger",
            "kernels: liger with sharding: full: it uses the output layer's weights outside of that layer",
            "kernels: none",
        ),
        (
            train.trains_all and train.base_dtype == "bfloat16",
            ("base_dtype: bfloat16 with method: full and sharding: full: weights would stay in float32"),
            "base_dtype: auto",
        ),
        (bool(train.packed) and train.packed != "auto", "packed: true with sharding: full: not tried", "packed: false"),
        (
            model.vision,
            f"sharding: full for {model.name}, a vision-language model: devices with and without images would wait "
            "for each other",
            "sharding: none",
        ),
    )
    found = _refused(train, ((applies, "sharding", text, hint) for applies, text, hint in pairs))
    if devices > 1:
        return found
    message = "sharding: full with one device"
    return (*found, error("train.sharding", message, "compute.gpus_per_run: 2, or train.sharding: none"))


def _refused(train: TrainConfig, pairs: Iterable[tuple[bool, str, str, str]]) -> tuple[Finding, ...]:
    """Return an error for each pair of settings that applies: (whether, key, message, hint)."""
    return tuple(unsupported(train.backend, key, text, hint) for applies, key, text, hint in pairs if applies)


_OPTIMIZER_SETTINGS = {"adafactor": (), "muon": (FixedSetting("train.optimizer_momentum", "0.95"),)}
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
    """Return what memory and time depend on apart from the batch. Backends replace what differs."""
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
    """Return the micro-batches that a batching makes of a training split."""
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


class PlannedBackend:
    """Answers of a backend that trains on the planned examples in the planned order. Backends replace what differs."""

    name: str

    def fixed_settings(self, train: TrainConfig) -> tuple[FixedSetting, ...]:
        """Return the loss and the settings of the optimizer."""
        return common_fixed_settings(train)

    def setup(
        self, train: TrainConfig, shape: ModelShape, machine: TargetMachine, width: int, devices: int = 1
    ) -> TrainingSetup:
        """Return what memory and time depend on apart from the batch."""
        del width
        return training_setup(self.name, train, shape, machine, devices)

    def batches(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchSummary | Missing:
        """Return the batches."""
        return planned_batches(train, lengths, seed, devices)

    def forecast(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchForecast | Missing:
        """Return the predicted micro-batches."""
        return forecast_batches(self.batching(train, lengths), train, lengths, seed, devices)

    def batching(self, train: TrainConfig, lengths: ExampleLengths) -> Batching:
        """Return the batching of a training on examples of these lengths."""
        raise NotImplementedError
