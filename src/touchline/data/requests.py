"""Requests of `estimate`, `pack` and `history import`: each field is an option too. Every `--help` imports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from touchline.core.options import Option
from touchline.experiment.training import DEFAULT_BACKEND

OURS = "touchline"
"""touchline's own packer over the whole split, for trainers that accept prepared packed sequences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateRequest:
    """Training whose memory and time `touchline estimate` answers."""

    model: Annotated[str, Option("Model name, folder or config.json.", "MODEL")]
    method: Annotated[str, Option("What is trained.", "lora|qlora|full")] = "lora"
    rank: Annotated[int, Option("Adapter rank.", min=0)] = 64
    target_modules: Annotated[
        tuple[str, ...] | None, Option("Adapted layers (default: all linear layers).", "A,B,...", old="--targets")
    ] = None
    adapter: Annotated[str, Option("Adapter type.", "lora|rslora|dora")] = "lora"
    lora_dropout: Annotated[float | None, Option("Adapter dropout (default: the trainer's).", min=0.0, max=1.0)] = None
    backend: Annotated[str, Option("Trainer; plain is a hand-written loop.", "NAME")] = DEFAULT_BACKEND
    release: Annotated[str | None, Option("Trainer version, such as 2024.8.", "VERSION", "--backend-version")] = None
    """None for the oldest version that a plan takes."""
    micro_batch_size: Annotated[int, Option("Sequences per forward pass.", min=1, old="--micro-batch")] = 1
    seq_len: Annotated[
        int, Option("Longest sequence in tokens, including padding (decides memory).", min=1, old="--padded-length")
    ] = 2048
    mean_length: Annotated[
        float | None, Option("Mean sequence length, including padding (time, reserved memory).", min=1.0)
    ] = None
    lengths: Annotated[str | None, Option("Tokens of every example, instead of their mean.", "FILE|A,B,...")] = None
    label_fraction: Annotated[
        float, Option("Fraction of tokens that are labels.", min=0.0, max=1.0, old="--label-share")
    ] = 1.0
    image_tokens: Annotated[int, Option("Image tokens per sequence.", min=0)] = 0
    gradient_accumulation_steps: Annotated[int, Option("Micro-batches per step.", min=1, old="--accumulation")] = 1
    gpu: Annotated[str, Option("A100-80GB, ... (default: the GPU here).", "NAME")] = "auto"
    gradient_checkpointing: Annotated[bool, Option("Recompute activations in the backward pass.")] = False
    base_dtype: Annotated[str | None, Option("Base dtype (default: as in a plan).", "DTYPE")] = None
    adapter_dtype: Annotated[
        str | None, Option("Dtype of the trained parameters (default: the trainer's).", "DTYPE")
    ] = None
    optimizer: Annotated[str, Option("Optimizer.", "NAME")] = "adamw"
    loss: Annotated[str | None, Option("Loss computation (default: the trainer's).", "full|chunked|fused")] = None
    attention: Annotated[str, Option("Attention kernel.", "fused|eager")] = "fused"
    compiled: Annotated[bool, Option("torch.compile is used.")] = False
    examples: Annotated[int | None, Option("Sequences per epoch, for the total time.", min=1)] = None
    epochs: Annotated[int, Option("Epochs.", min=1)] = 1
    evidence: Annotated[
        tuple[Path, ...], Option("Log of a past run to use as evidence (repeatable).", "FILE", old="--prior")
    ] = ()
    evidence_facts: Annotated[
        Mapping[str, str],
        Option("Fact that those logs lack: gpu=A100-80GB (repeatable).", "KEY=VALUE", flag="--evidence-fact"),
    ] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackRequest:
    """Dataset to pack, and the batching to compare with."""

    max_seq_len: Annotated[int, Option("Maximum sequence length in tokens.", min=1)]
    dataset: Annotated[Path | None, Option("JSON, JSONL, CSV or parquet.", "[DATASET]", is_argument=True)] = None
    """None if lengths are given."""
    tokenizer: Annotated[str | None, Option("Model with the tokenizer and chat template.", "MODEL")] = None
    lengths: Annotated[Path | None, Option("Token lengths instead of data: .npy, or one integer per line.", "FILE")] = (
        None
    )
    backend: Annotated[str, Option("Trainer whose batching is used; touchline is the built-in packer.", "NAME")] = OURS
    micro_batch: Annotated[
        int, Option("Sequences per forward pass.", flag="--micro-batch-size", min=1, old="--micro-batch")
    ] = 16
    accumulation: Annotated[
        int, Option("Micro-batches per step.", flag="--gradient-accumulation-steps", min=1, old="--accumulation")
    ] = 1
    devices: Annotated[int, Option("Data-parallel devices.", min=1)] = 1
    epochs: Annotated[int, Option("Epochs.", min=1)] = 1
    seed: Annotated[int, Option("Random seed for packing.", min=0)] = 1
    prompt: Annotated[str | None, Option("The user's turn, with {input} in it.")] = None
    input_column: Annotated[str | None, Option("Column of the input.", flag="--input")] = None
    """None to find it by name, as the next one."""
    output_column: Annotated[str | None, Option("Column of the answer.", flag="--output")] = None
    messages: Annotated[str | None, Option("Column of whole chats.")] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedFacts:
    """Facts of past runs which their logs do not hold."""

    gpu: Annotated[str | None, Option("GPU of these runs: A100-80GB, ...", "NAME")] = None
    gpus: Annotated[str | None, Option("Number of GPUs.", "N")] = None
    model: Annotated[str | None, Option("Base model.", "MODEL")] = None
    dataset: Annotated[str | None, Option("Dataset; its lengths give the padding.", "FILE")] = None
    trainer: Annotated[str | None, Option("Trainer, by its name in lower case.", "NAME")] = None
    method: Annotated[str | None, Option("What was trained.", "lora|qlora|full")] = None
    precision: Annotated[str | None, Option("Base dtype: bf16, fp16, fp32.", "DTYPE")] = None
