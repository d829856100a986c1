"""Limits of batch and sequence length that every trainer of causal language models shares, and the
kernels that settings ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from touchline.backends.capabilities import unsupported
from touchline.core.catalog import ModelInfo
from touchline.core.finding import Finding, Severity
from touchline.data.packing.batches import largest_divisor
from touchline.experiment.experiment import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """Package with kernels for GPUs."""

    setting: str
    """The setting that asks for it, with its value."""
    module: str
    """Module that Python imports."""
    package: str
    """Package to install."""
    without: str
    """The setting that does without it."""


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
    """Return an error for each batch size, length or kind of model that cannot be trained as written.

    Args:
        devices: its data-parallel size.
    """
    faults: list[Finding] = []
    # Whether the backend trains vision-language models is its capability.
    kinds = ("ForCausalLM", "ForConditionalGeneration") if model.vision else ("ForCausalLM",)
    if "config.json" not in model.absent and not model.architecture.endswith(kinds):
        faults.append(
            _error("BK001", "models", f"{model.name} is a {model.architecture}, expected a causal language model")
        )
    whole = train.global_batch_size
    if whole % devices:
        fewer = largest_divisor(whole, devices)
        faults.append(
            _error(
                "TR001",
                "compute.gpus_per_run",
                f"global_batch_size {whole} is not a multiple of gpus_per_run {devices}",
                f"compute.gpus_per_run: {fewer}, or train.global_batch_size: {whole + -whole % devices}",
            )
        )
    elif isinstance(train.micro_batch_size, int) and whole % (train.micro_batch_size * devices):
        times = f" x gpus_per_run {devices}" if devices > 1 else ""
        faults.append(
            _error(
                "TR001",
                "train.micro_batch_size",
                f"global_batch_size {whole} is not a multiple of micro_batch_size {train.micro_batch_size}{times}",
                f"micro_batch_size: {largest_divisor(whole // devices, train.micro_batch_size)}",
            )
        )
    faults += _liger_faults(model, train)
    if train.max_seq_len > model.context_length:
        faults.append(
            _error(
                "TR002",
                "train.max_seq_len",
                f"max_seq_len {train.max_seq_len} is longer than the context of {model.name}, "
                f"{model.context_length} tokens",
                f"max_seq_len: {model.context_length}",
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
    """Return the errors of `kernels: liger` settings that trainers ignore or only warn about."""
    if train.kernels != "liger":
        return []
    found = []
    if model.model_type not in _LIGER_MODELS:
        known = ", ".join(_LIGER_MODELS)
        message = f"kernels: liger for {model.name}, a {model.model_type or 'model of unknown type'}, expected {known}"
        found.append(_error("BK001", "train.kernels", message, "kernels: none"))
    if train.label_smoothing:
        message = "kernels: liger with label_smoothing, which needs the logits that liger does not keep"
        found.append(_error("BK001", "train.kernels", message, "kernels: none"))
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
    """Return an error for each setting that does not go with `sharding: full`, or if there is nothing to share.

    Args:
        devices: its data-parallel size.
    """
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
        (
            train.compile,
            "compile: true with sharding: full: not tried",
            "compile: false",
        ),
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
        (
            bool(train.packed) and train.packed != "auto",
            "packed: true with sharding: full: not tried",
            "packed: false",
        ),
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
    return (*found, _error("BK001", "train.sharding", message, "compute.gpus_per_run: 2, or train.sharding: none"))


def _refused(train: TrainConfig, pairs: Iterable[tuple[bool, str, str, str]]) -> tuple[Finding, ...]:
    """Return an error for each pair of settings that applies: (whether, key, message, hint)."""
    return tuple(unsupported(train.backend, key, text, hint) for applies, key, text, hint in pairs if applies)


def _error(code: str, subject: str, message: str, hint: str | None = None) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)
