"""Steps of a Hugging Face Trainer for a probe: the same model, tokens and measurements as those of our own loop.

A backend's script builds the trainer. It gets its fused kernels and flash attention where they are installed. The CUDA
parts are not verified on a GPU.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import datasets
import psutil
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from touchline.core.quantity import Quantity
from touchline.history.probe import STEPS, ProbeAnswer, ProbeMemory, ProbeOutcome, ProbeRequest, ProbeWork
from touchline.train.machine import Machine, MemorySampler, Stopwatch, select_device
from touchline.train.model import base_of, trainable
from touchline.train.probe_steps import (
    described,
    forget_peak,
    gpu_memory,
    invented,
    keep_to_share,
    lacking,
    make_base,
    peak_bytes,
)
from touchline.train.target_loss import IGNORED


@dataclass(kw_only=True, slots=True, eq=False)
class TrainerProbe:
    """Parts of a trainer under test."""

    request: ProbeRequest
    """Micro-batch and settings."""
    machine: Machine
    """Device and dtype."""
    folder: str
    """Folder for the trainer's own files."""
    flash: bool = field(init=False)
    """Whether flash attention for packed rows is installed."""
    fused_kernels: bool = field(init=False)
    """Whether fused kernels for the loss and the norms are installed."""
    base: nn.Module = field(init=False)
    """Base model."""

    def __post_init__(self) -> None:
        cuda = self.machine.kind == "cuda"
        self.flash = cuda and importlib.util.find_spec("flash_attn") is not None
        self.fused_kernels = cuda and importlib.util.find_spec("liger_kernel") is not None
        self.base = make_base(self.request, self.machine, self.attention)

    @property
    def attention(self) -> str:
        """Return the attention implementation."""
        return "flash_attention_2" if self.flash else "sdpa"

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `TrainingArguments`: some steps, and nothing written or reported."""
        request = self.request
        return {
            "output_dir": self.folder,
            "max_steps": request.steps,
            "per_device_train_batch_size": request.rows,
            "gradient_accumulation_steps": request.micro_batches_per_step,
            "learning_rate": request.train.peak_learning_rate,
            "max_grad_norm": request.train.max_grad_norm,
            "bf16": self.machine.base_dtype == torch.bfloat16,
            "use_cpu": self.machine.kind == "cpu",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": request.seed,
        }

    @property
    def lora(self) -> dict[str, Any]:
        """Return the arguments of `LoraConfig`."""
        lora = self.request.train.lora
        return {
            "task_type": "CAUSAL_LM",
            "r": lora.rank,
            "lora_alpha": lora.resolved_alpha,
            "lora_dropout": lora.dropout,
            "target_modules": list(lora.target_modules),
            "bias": "none",
        }

    def dataset(self) -> datasets.Dataset:
        """Return examples that fill the rows of all steps exactly; a trainer computes every token of an example."""
        request = self.request
        vocabulary = int(base_of(self.base).get_input_embeddings().weight.shape[0])
        examples, _ = invented(request, vocabulary)
        times = request.steps * request.micro_batches_per_step
        tokens = [[*example.prompt_ids[1:], *example.answer_ids] for example in examples]
        labels = [[IGNORED] * (len(each.prompt_ids) - 1) + list(each.answer_ids) for each in examples]
        return datasets.Dataset.from_dict({"input_ids": tokens * times, "labels": labels * times})

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a tokenizer that gives the trainer its padding token."""
        words = Tokenizer(models.WordLevel(vocab={"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
        return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")


def measure_trainer(request: ProbeRequest, build: Callable[[TrainerProbe], Any]) -> ProbeAnswer:
    """Run the steps of a trainer and return measurements; out of memory is a result.

    Args:
        request: micro-batch and settings.
        build: makes the trainer.

    Raises:
        InputError: the model cannot be loaded.
    """
    machine = select_device(request.train.base_dtype)
    about = described(machine)
    clock = _Clock(request, machine)
    outcome, message = ProbeOutcome.FITS, ""
    work, memory, setup_seconds = None, None, None
    try:
        keep_to_share(request, machine)
        with tempfile.TemporaryDirectory(prefix="touchline-probe-") as folder:
            probe = TrainerProbe(request=request, machine=machine, folder=folder)
            count = sum(parameter.numel() for parameter in probe.base.parameters())
            trainer = build(probe)
            trainer.add_callback(clock)
            work = _work(probe, trainer, count)
            setup_seconds = time.time() - psutil.Process().create_time()
            memory = clock.run(trainer)
    except (MemoryError, RuntimeError) as error:
        found = lacking(error, machine.kind)
        if found is None:
            raise
        outcome, message = found, (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return ProbeAnswer(
        outcome=outcome,  # type: ignore[arg-type]
        machine=about,
        work=work,
        memory=memory,
        step_seconds=tuple(clock.step_seconds),
        setup_seconds=setup_seconds,
        message=message,
    )


def _work(probe: TrainerProbe, trainer: Any, base_parameters: int) -> ProbeWork:
    request = probe.request
    packed = request.examples_per_row > 1
    return ProbeWork(
        attention=probe.attention,
        layout=f"packed, rows of {request.width} tokens" if packed else "padded",
        optimizer=str(trainer.args.optim),
        base_parameters=base_parameters,
        trainable_parameters=sum(parameter.numel() for parameter in trainable(trainer.model).values()),
        tokens_per_step=request.rows * request.width * request.micro_batches_per_step,
        examples_per_step=request.rows * request.examples_per_row * request.micro_batches_per_step,
    )


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times of the steps and the memory over all of them."""

    def __init__(self, request: ProbeRequest, machine: Machine) -> None:
        self._request = request
        self._machine = machine
        self._watch = Stopwatch()
        self.step_seconds: list[float] = []

    def run(self, trainer: Any) -> ProbeMemory:
        """Train. Return the memory."""
        cuda = self._machine.kind == "cuda"
        loading_bytes = peak_bytes()
        loaded_bytes = torch.cuda.memory_allocated() if cuda else int(psutil.Process().memory_info().rss)
        exact = forget_peak()
        with MemorySampler(self._machine) as sampler:
            sampler.watch(active=True)
            trainer.train()
            sampler.watch(active=False)
            exact_bytes = peak_bytes() if exact else None
            peak, reserved = sampler.peaks()
        assert isinstance(peak, Quantity)
        if isinstance(reserved, Quantity):
            return gpu_memory(loaded_bytes, loading_bytes, int(peak.value), int(reserved.value), self._request)
        return ProbeMemory(
            loaded_bytes=loaded_bytes,
            loading_bytes=loading_bytes,
            allocated_bytes=None,
            reserved_bytes=None,
            process_bytes=int(peak.value) if exact_bytes is None else exact_bytes,
            method=f"resident set, {'sampled' if exact_bytes is None else 'as the kernel counts it'}",
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        """Start the clock of a step."""
        self._watch = Stopwatch()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Stop the clock, and the training once the time is used up."""
        if self._machine.kind == "cuda":
            torch.cuda.synchronize()
        self.step_seconds.append(self._watch.seconds())
        budget = self._request.budget_seconds
        if budget is not None and len(self.step_seconds) >= STEPS and sum(self.step_seconds) >= budget:
            control.should_training_stop = True
