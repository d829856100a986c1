"""Requests and answers of a probe, a few real optimizer steps, and the result of `touchline selftest`.

A request and its reply are one JSON object each; `run.probing` writes the one, `train.probe` the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from touchline.core.estimate import MicroBatch
from touchline.core.quantity import Measured, Missing
from touchline.experiment.training import TrainConfig
from touchline.experiment.value_types import NonNegativeInt, PositiveFloat, PositiveInt, Text

STEPS = 3
"""Optimizer steps of a try: the first makes the optimizer's state and warms up, the others are timed."""


FaultKind = Literal["input", "environment", "other"]


class ProbeOutcome(StrEnum):
    """Outcome of a try. Only `FITS` proves that it fits; only the two OOMs prove that it does not."""

    FITS = "fits"
    """All steps were done within the limits."""
    GPU_OOM = "gpu_oom"
    """The GPU's memory did not suffice."""
    HOST_OOM = "host_oom"
    """The machine's memory, or what the process may have of it, did not suffice."""
    TIMEOUT = "timeout"
    """It did not end in time."""
    CRASHED = "crashed"
    """It ended in another way, which proves nothing."""

    @property
    def out_of_memory(self) -> bool:
        """Return True if memory was what was lacking."""
        return self in (ProbeOutcome.GPU_OOM, ProbeOutcome.HOST_OOM)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbedModel:
    """The base model."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: Text
    """Name of the model."""
    path: Text
    """Folder of the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRequest:
    """Training to try: one micro-batch size, without its data."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    model: ProbedModel
    """The base model."""
    train: TrainConfig
    """The training; its batch sizes, lengths and epochs are not looked at."""
    seed: NonNegativeInt
    """Decides on the tokens, and the initial adapter."""
    rows: PositiveInt = 1
    """Sequences side by side."""
    width: PositiveInt
    """Positions computed of each, padding included."""
    label_tokens: PositiveInt
    """Label tokens among them; at least one per example."""
    examples_per_row: PositiveInt = 1
    """Examples that share a row, hidden from each other by a mask; 1 where nothing is packed."""
    micro_batches_per_step: PositiveInt = 1
    """Forward passes per optimizer step; 2 where gradients are accumulated: more need no more memory."""
    steps: Annotated[int, Ge(2)] = STEPS
    """Optimizer steps."""
    budget_seconds: PositiveFloat | None = None
    """Time after which no further step is begun, once the least number is done; none: all steps are done."""
    gpu_limit_bytes: PositiveInt | None = None
    """GPU memory that the process may take, to imitate a smaller GPU; None for all that is free."""
    gpu_in_use_before_bytes: NonNegativeInt | None = None
    """GPU memory of other processes, by the driver; None if it does not report it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeMachine:
    """Machine of a try."""

    device: Literal["cpu", "cuda"]
    """CPU or GPU."""
    name: str
    """Name of the device."""
    memory_bytes: int
    """All memory of the machine, or of the GPU."""
    threads: int
    """Threads of torch on the CPU."""
    base_dtype: Literal["float32", "bfloat16"]
    """Element type of the base."""
    versions: dict[str, str]
    """Versions of what computes."""
    load_1min: float | None
    """The machine's load over the minute before; far from 0, the times are of a busy machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeWork:
    """Work of a try."""

    attention: str
    """Implementation of attention."""
    layout: str
    """Layout of the examples."""
    optimizer: str
    """The optimizer."""
    base_parameters: int
    """Parameters of the base."""
    trainable_parameters: int
    """Parameters of the adapter."""
    tokens_per_step: int
    """Positions computed in an optimizer step, padding included."""
    examples_per_step: int
    """Examples in an optimizer step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeMemory:
    """Memory by kind. The peaks are those of the steps; loading counts apart."""

    loaded_bytes: int
    """After loading: tensors on the GPU, or the resident set of the process; of that, weights that are mapped from
    their file are a part only once they have been read."""
    loading_bytes: int | None
    """Peak resident set while loading, if the system reports it."""
    allocated_bytes: int | None
    """Peak of the tensors on the GPU."""
    reserved_bytes: int | None
    """Peak of the allocator's cache on the GPU."""
    process_bytes: int | None
    """Peak of the process: its resident set, or what the GPU's driver shows for it."""
    method: str
    """Method of measuring `process_bytes`, or the reason why it is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeAnswer:
    """Measurements of a try."""

    outcome: Literal[ProbeOutcome.FITS, ProbeOutcome.GPU_OOM, ProbeOutcome.HOST_OOM]
    """Whether it fits."""
    machine: ProbeMachine
    """Machine of the try."""
    work: ProbeWork | None
    """Work that was computed; None if the model did not load."""
    memory: ProbeMemory | None
    """Memory; none where it did not fit."""
    step_seconds: tuple[float, ...]
    """Each optimizer step that was done; the first is the warm-up."""
    setup_seconds: float | None
    """From the start of the process to the first step: imports, model, adapter; none where it did not get so far."""
    message: str
    """Error message of an allocation that failed; empty if it fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeFault:
    """Reason why nothing could be tried."""

    kind: FaultKind
    """The request is wrong; the machine lacks something; anything else."""
    message: str
    """Error and its place."""
    expected: str | None = None
    """Expected value."""
    hint: str | None = None
    """Next command."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReply:
    """Answer or failure of a try."""

    answer: ProbeAnswer | None = None
    """Measurements."""
    fault: ProbeFault | None = None
    """Why nothing was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeTry:
    """Try in a process of its own."""

    micro_batch_size: int
    """The micro-batch size that was tried."""
    batch: MicroBatch
    """Largest micro-batch."""
    outcome: ProbeOutcome
    """Outcome of the try."""
    wall_seconds: float
    """From the start of its process to its end."""
    seen_bytes: int
    """The largest resident set that was seen from outside."""
    limit_bytes: int
    """Limit of the resident set."""
    answer: ProbeAnswer | None
    """Measurements; None if the process was killed."""
    message: str
    """Why it does not fit; empty when it does."""

    @property
    def seconds_per_step(self) -> float | None:
        """Median of the steps after the first."""
        timed = sorted(self.answer.step_seconds[1:]) if self.answer is not None else []
        if not timed or self.outcome is not ProbeOutcome.FITS:
            return None
        middle = len(timed) // 2
        return timed[middle] if len(timed) % 2 else (timed[middle - 1] + timed[middle]) / 2

    @property
    def tokens_per_second(self) -> float | None:
        """Positions computed per second, padding included."""
        seconds = self.seconds_per_step
        work = None if self.answer is None else self.answer.work
        return None if not seconds or work is None else work.tokens_per_step / seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReport:
    """Result of a search for the micro-batch size."""

    request: ProbeRequest
    """Settings common to all tries."""
    predicted: int | None
    """The largest micro-batch size, as it was estimated before."""
    sizes: tuple[int, ...]
    """The micro-batch sizes that were allowed."""
    tries: tuple[ProbeTry, ...]
    """The tries, in order."""
    largest: int | None
    """The largest micro-batch size that was seen to fit."""
    recommended: int | None
    """The smallest one that is as fast as every larger one that fits."""
    ended: str
    """Why no further one was tried."""


SELFTEST_SCHEMA_VERSION = 1


class Verdict(StrEnum):
    """Verdict of a check."""

    OK = "ok"
    """It ran, and its figures are within their limits, if it has any."""
    FAILED = "failed"
    """It ended otherwise, or a figure is beyond its limit."""
    NOT_RUN = "not run here"
    """This node lacks something that it needs."""


class StepCheck(StrEnum):
    """Check made by the trainer's program, on tiny models with random weights."""

    DEVICE = "device"
    BFLOAT16 = "bfloat16"
    KERNELS = "SDPA kernels"
    LLAMA_FLOAT32 = "llama-like, float32"
    QWEN_FLOAT32 = "qwen-like, float32"
    GEMMA_FLOAT32 = "gemma-like, float32"
    LLAMA_BFLOAT16 = "llama-like, bfloat16"
    QWEN_BFLOAT16 = "qwen-like, bfloat16"
    GEMMA_BFLOAT16 = "gemma-like, bfloat16"
    PACKED = "packed rows isolated"
    PREFIX = "shared prefix isolated"
    BLOCKS = "masks by blocks"
    RESUME = "resume after a stop"
    COHORT = "runs side by side"
    QLORA = "QLoRA step"
    COMPILED = "compiled step"


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeCheck:
    """Check of a node."""

    name: str
    """Subject: `llama-like, bfloat16`."""
    verdict: Verdict
    """Verdict."""
    figures: Mapping[str, Measured] = field(default_factory=dict)
    """Measured numbers by name."""
    message: str = ""
    """Facts without a number, or why it failed."""
    reason: Missing | None = None
    """Why it was not run; None if it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelftestReport:
    """Report of `touchline selftest`."""

    schema_version: int = SELFTEST_SCHEMA_VERSION
    """Version of this form."""
    touchline_version: str
    """Version of touchline."""
    machine: str
    """Device: the first visible GPU, or the CPU with its threads."""
    seconds: float
    """Duration."""
    checks: tuple[NodeCheck, ...]
    """Checks, in order."""

    @property
    def failed(self) -> int:
        """Return the number of failed checks."""
        return sum(check.verdict is Verdict.FAILED for check in self.checks)
