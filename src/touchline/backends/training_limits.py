"""Limits of batch and sequence length that every trainer of causal language models shares."""

from __future__ import annotations

from touchline.core.catalog import ModelInfo
from touchline.core.finding import Finding, Severity
from touchline.data.packing.batches import largest_divisor
from touchline.spec.experiment import TrainConfig


def limit_faults(model: ModelInfo, train: TrainConfig) -> tuple[Finding, ...]:
    """Return an error for each batch size, length or kind of model that cannot be trained as written."""
    found: list[Finding] = []
    if not model.architecture.endswith("ForCausalLM"):
        found.append(
            _error("BK001", "models", f"{model.name} is a {model.architecture}; expected a causal language model")
        )
    if isinstance(train.micro_batch_size, int) and train.global_batch_size % train.micro_batch_size:
        found.append(
            _error(
                "TR001",
                "train.micro_batch_size",
                f"global_batch_size {train.global_batch_size} is not a multiple of "
                f"micro_batch_size {train.micro_batch_size}",
                f"micro_batch_size: {largest_divisor(train.global_batch_size, train.micro_batch_size)}",
            )
        )
    if train.max_seq_len > model.context_length:
        found.append(
            _error(
                "TR002",
                "train.max_seq_len",
                f"max_seq_len {train.max_seq_len} is longer than the context of {model.name}, "
                f"{model.context_length} tokens",
                f"max_seq_len: {model.context_length}",
            )
        )
    return tuple(found)


def _error(code: str, subject: str, message: str, hint: str | None = None) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)
