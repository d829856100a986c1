"""Real optimizer steps of a micro-batch of the requested size, by the trainer's own functions on random tokens."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import torch
from safetensors import SafetensorError
from torch import nn

from touchline.backends.peft.layout import PADDED, BatchLayout, arrange
from touchline.core.catalog import RenderedExample
from touchline.core.errors import InputError
from touchline.core.quantity import Quantity, number_of
from touchline.data.machine import load_1min
from touchline.history.probe import STEPS, ProbeAnswer, ProbeMachine, ProbeMemory, ProbeOutcome, ProbeRequest, ProbeWork
from touchline.train.attempt import LOG
from touchline.train.machine import Machine, MemorySampler, Stopwatch, library_versions, select_device
from touchline.train.model import attention_for, base_of, load_base, to_trained, trainable
from touchline.train.optimizers import OPTIMIZER_NAMES, compile_layers, compile_shapes, optimizer_for, require_compiler
from touchline.train.target_loss import TargetLoss, add_gradient

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"  # Value that resets the peak of the resident set; see proc(5)
_HOST_WORDS = ("can't allocate memory", "not enough memory", "cannot allocate memory")
_GPU_WORDS = ("out of memory", "alloc_failed")


def lacking(error: BaseException, device: str) -> ProbeOutcome | None:
    """Return which memory is exhausted according to an error; None for another error."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError):
        return ProbeOutcome.GPU_OOM
    if isinstance(error, MemoryError) or any(words in text for words in _HOST_WORDS):
        return ProbeOutcome.HOST_OOM
    if device == "cuda" and any(words in text for words in _GPU_WORDS):
        return ProbeOutcome.GPU_OOM
    return None


def peak_bytes() -> int | None:
    """Return the peak resident set since `forget_peak` or the process start; None if the kernel does not report it."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None


def forget_peak() -> bool:
    """Reset the peak. Return True if that is supported."""
    try:
        _CLEAR.write_text(_CLEAR_PEAK, encoding="ascii")
    except OSError:
        return False
    return peak_bytes() is not None


def keep_to_share(request: ProbeRequest, machine: Machine) -> None:
    """Limit this process to a share of the GPU, if requested."""
    if machine.kind == "cuda" and request.gpu_limit_bytes is not None:
        free, total = torch.cuda.mem_get_info()
        others_bytes = request.gpu_in_use_before_bytes
        context_bytes = 0 if others_bytes is None else max(total - free - others_bytes, 0)
        share = max(request.gpu_limit_bytes - context_bytes, 0) / total
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0))


def gpu_memory(
    loaded_bytes: int, loading_bytes: int | None, allocated_bytes: int, reserved_bytes: int, request: ProbeRequest
) -> ProbeMemory:
    """Return the GPU memory by kind; process memory includes the allocator's cache and the driver's context."""
    process_bytes: int | None = None
    method = "unknown: the driver does not report what other processes hold"
    if (others_bytes := request.gpu_in_use_before_bytes) is not None:
        free, total = torch.cuda.mem_get_info()
        context_bytes = max(total - free - torch.cuda.memory_reserved() - others_bytes, 0)
        process_bytes = reserved_bytes + context_bytes
        method = "reserved memory, plus what the device holds outside it and outside other processes"
    return ProbeMemory(
        loaded_bytes=loaded_bytes,
        loading_bytes=loading_bytes,
        allocated_bytes=allocated_bytes,
        reserved_bytes=reserved_bytes,
        process_bytes=process_bytes,
        method=method,
    )


def measure(request: ProbeRequest) -> ProbeAnswer:
    """Load the model, run the steps and return measurements; out of memory is a result."""
    machine = select_device(request.train.base_dtype)
    about = described(machine)
    probe = _Probe(request, machine)
    outcome, message = ProbeOutcome.FITS, ""
    memory, setup_seconds = None, None
    try:
        keep_to_share(request, machine)
        model = probe.load()
        setup_seconds = time.time() - psutil.Process().create_time()
        LOG.info("%s is loaded, %.1f s after the start, %d steps", request.model.name, setup_seconds, request.steps)
        memory = probe.steps(model)
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError is a RuntimeError, and so is what torch raises of the processor's memory.
        found = lacking(error, machine.kind)
        if found is None:
            raise
        outcome, message = found, (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return ProbeAnswer(
        outcome=outcome,  # type: ignore[arg-type]
        machine=about,
        work=probe.work,
        memory=memory,
        step_seconds=tuple(probe.step_seconds),
        setup_seconds=setup_seconds,
        message=message,
    )


def invented(request: ProbeRequest, vocabulary: int) -> tuple[list[RenderedExample], BatchLayout]:
    """Return examples that fill the requested rows exactly, and their layout.

    Each row holds equally many examples whose lengths differ by at most one token; label tokens are distributed evenly.
    """
    each, count = request.examples_per_row, request.rows * request.examples_per_row
    shortest = request.width // each
    most = -(-request.label_tokens // count)
    if shortest < 1 or request.label_tokens < count or most > shortest:
        raise InputError(
            f"{count} examples with {request.label_tokens} label tokens do not fit in {request.rows} sequences "
            f"of {request.width} tokens",
            expected="at least one label token per example, and no more than its tokens",
        )
    generator = np.random.default_rng(request.seed)
    examples = []
    for number in range(count):
        # The last token of an example is a label only, so that one more than is computed is needed.
        length = shortest + (number % each < request.width % each) + 1
        labels = request.label_tokens // count + (number < request.label_tokens % count)
        ids = tuple(generator.integers(0, vocabulary, length).tolist())
        examples.append(RenderedExample(prompt_ids=ids[:-labels], answer_ids=ids[-labels:]))
    return examples, PADDED if each == 1 else BatchLayout(row_tokens=request.width)


class _Probe:
    def __init__(self, request: ProbeRequest, machine: Machine) -> None:
        self._request = request
        self._machine = machine
        self.step_seconds: list[float] = []
        self.work: ProbeWork | None = None

    def load(self) -> nn.Module:
        """Load what is trained like the trainer."""
        request, machine = self._request, self._machine
        attention = attention_for(machine, request.width, request.train.attention)
        base = make_base(request, machine, attention)
        base_parameters = sum(parameter.numel() for parameter in base.parameters())
        model = to_trained(base, request)
        vocabulary = int(base_of(model).get_input_embeddings().weight.shape[0])
        self._examples, self._layout = invented(request, vocabulary)
        self.work = ProbeWork(
            attention=attention,
            layout=self._layout.name,
            optimizer=OPTIMIZER_NAMES[request.train.optimizer],
            base_parameters=base_parameters,
            trainable_parameters=sum(parameter.numel() for parameter in trainable(model).values()),
            tokens_per_step=request.rows * request.width * request.micro_batches_per_step,
            examples_per_step=len(self._examples) * request.micro_batches_per_step,
        )
        return model

    def steps(self, model: nn.Module) -> ProbeMemory:
        """Run timed optimizer steps. Return the peak memory over all of them."""
        machine = self._machine
        target_loss = TargetLoss(model, machine)
        parameters = trainable(model)
        optimizer = optimizer_for(parameters, self._request.train)
        model.train()
        if self._request.train.compile:
            require_compiler(self._request.train, machine.kind)
            compile_layers(model)
            compile_shapes(target_loss, [self._examples], self._layout)
        loading_bytes = peak_bytes()
        loaded_bytes = torch.cuda.memory_allocated() if machine.kind == "cuda" else psutil.Process().memory_info().rss
        exact = forget_peak()
        with MemorySampler(machine) as sampler:
            sampler.watch(active=True)
            while len(self.step_seconds) < self._request.steps and not self._spent():
                watch = Stopwatch()
                self._step(target_loss, parameters, optimizer)
                if machine.kind == "cuda":
                    torch.cuda.synchronize()
                self.step_seconds.append(watch.seconds())
            sampler.watch(active=False)
            # Before the sampler ends: what it costs is part of what a training has, too.
            exact_bytes = peak_bytes() if exact else None
            peak, reserved = sampler.peaks()
        assert isinstance(peak, Quantity)
        if machine.kind == "cpu":
            seen = "sampled" if exact_bytes is None else "as the kernel counts it"
            return ProbeMemory(
                loaded_bytes=loaded_bytes,
                loading_bytes=loading_bytes,
                allocated_bytes=None,
                reserved_bytes=None,
                process_bytes=exact_bytes if exact_bytes is not None else int(peak.value),
                method=f"resident set, {seen}",
            )
        assert isinstance(reserved, Quantity)
        return gpu_memory(loaded_bytes, loading_bytes, int(peak.value), int(reserved.value), self._request)

    def _spent(self) -> bool:
        budget = self._request.budget_seconds
        return budget is not None and len(self.step_seconds) >= STEPS and sum(self.step_seconds) >= budget

    def _step(
        self, target_loss: TargetLoss, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> None:
        targets = self._request.label_tokens * self._request.micro_batches_per_step
        for _ in range(self._request.micro_batches_per_step):
            add_gradient(target_loss, arrange(self._examples, self._layout), targets)
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), self._request.train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def make_base(request: ProbeRequest, machine: Machine, attention: str) -> nn.Module:
    """Load the base."""
    try:
        return load_base(request, machine, attention)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        message = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"the model {request.model.path!r} cannot be loaded: {message}",
            expected="a folder with the config.json and the weights of a causal language model",
        ) from error


def described(machine: Machine) -> ProbeMachine:
    """Return the facts of the machine before a try."""
    load = load_1min()
    cuda = machine.kind == "cuda"
    return ProbeMachine(
        device=machine.kind,
        name=machine.device_name,
        memory_bytes=torch.cuda.mem_get_info()[1] if cuda else psutil.virtual_memory().total,
        threads=machine.threads,
        base_dtype=machine.choice.dtype,
        versions=library_versions(),
        load_1min=number_of(load),
    )
