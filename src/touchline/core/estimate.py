"""Predictions: a value, its interval and its evidence, and figures of packing. `estimate/` returns no bare number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Literal

from touchline.core.quantity import Aggregation, Measured, MemoryKind, Phase, Quantity, TokenUnit
from touchline.core.shape import ModelShape

COVERAGE = 0.9
"""Nominal coverage of intervals, two-sided; 5% of the values lie above the upper end."""

Dtype = Literal["float32", "bfloat16", "float16"]
Method = Literal["lora", "qlora", "full"]
Attention = Literal["fused", "eager"]
"""Fused kernels (flash, SDPA) keep nothing that grows with the square of the length; eager attention does."""
LossKind = Literal["full", "chunked", "fused"]
"""All logits at once; their loss piece by piece; logits and loss in one kernel that never holds them all."""


class EvidenceLevel(IntEnum):
    """Evidence level of an estimate; the lower, the better."""

    SAME_RUN = 1
    """A finished run of the same settings on the same kind of machine."""
    SAME_MODEL = 2
    """Runs of the same model and trainer at other batch sizes or lengths."""
    SAME_STACK = 3
    """Runs of other models with the same trainer on the same kind of machine."""
    NOTHING = 4
    """No run: formulas and published figures alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A predicted number with its interval; `low <= value <= high`."""

    value: float
    """The prediction, in `unit`."""
    unit: str
    """`GiB`, `s`, `MB` ..."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    coverage: float = COVERAGE
    """Nominal coverage of the interval."""
    method: str
    """Method, in words."""
    rung: EvidenceLevel
    """Evidence level."""
    evidence: tuple[str, ...] = ()
    """Runs used as evidence, by name or id."""
    extrapolated: bool = False
    """Whether it goes beyond what was measured or what the formula was checked on."""
    phase: Phase | None = None
    """Phase of the run, for memory."""
    kind: MemoryKind | None = None
    """Kind of memory."""
    token_unit: TokenUnit | None = None
    """Kind of tokens, for rates."""
    aggregation: Aggregation | None = None
    """Aggregation of several measurements: peak, sum, median."""

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] does not contain {self.value}")

    def quantity(self) -> Quantity:
        """Return the estimate as a `Quantity`."""
        words = self.method + (", extrapolated" if self.extrapolated else "")
        return Quantity(
            value=self.value,
            unit=self.unit,
            low=self.low,
            high=self.high,
            coverage=self.coverage,
            phase=self.phase,
            kind=self.kind,
            token_unit=self.token_unit,
            aggregation=self.aggregation,
            method=words,
            where=", ".join(self.evidence) or None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Micro-batch: the sequences of one forward pass."""

    rows: int
    """Sequences side by side."""
    width: int
    """Tokens of each, padding included."""
    label_tokens: int
    """Label tokens among them."""

    @property
    def tokens(self) -> int:
        """Padded tokens: what memory is affine in."""
        return self.rows * self.width


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetup:
    """Settings apart from the batch that decide the memory and time of a step."""

    shape: ModelShape
    backend: str
    """The trainer, a folder of `backends/`."""
    method: Method
    rank: int
    """Rank of the adapter; 0 when all is trained."""
    target_modules: tuple[str, ...]
    base_dtype: Dtype
    """Element type of a frozen base, and of what is computed."""
    adapter_dtype: Dtype
    """Element type of the trained parameters, an adapter's or all, and of their gradients."""
    optimizer: str = "adamw"
    """`adamw`, `paged_adamw_8bit`, `adafactor`, `sgd` ..."""
    gradient_checkpointing: bool = False
    attention: Attention = "fused"
    compiled: bool = False
    dropout: float = 0.0
    accumulates: bool = False
    """Whether gradients stay in memory together with the activations of the next micro-batch."""
    loss: LossKind | None = None
    """Loss computation, if set; None: the trainer's default."""
    variant: str = "lora"
    """Kind of adapter: `lora`, `rslora` or `dora`."""
    whole_modules: tuple[str, ...] = ()
    """Layers outside the blocks that are trained whole next to the adapter: `embed_tokens`, `lm_head`."""
    padded: bool | None = None
    """Whether rows are padded, so that attention gets a mask; None if unknown."""
    release: str | None = None
    """The trainer's version, `2024.8`; None if unknown."""
    int8_base: bool = False
    """Whether the frozen base's matrices are in 8 bits (LLM.int8)."""
    nested_scales: bool | None = None
    """Whether the scales of a 4-bit base are themselves in 8 bits; None: the trainer's default."""
    dynamic_4bit: bool = False
    """Whether the 4-bit base was stored with some layers in 16 bits."""
    image_tokens: int = 0
    gradient_buckets: bool = False
    """Whether torch's DistributedDataParallel holds all gradients a second time, in its buckets."""
    shards: int = 1
    """Devices that share weights, gradients and optimizer states; each gathers a layer while it is computed."""

    @property
    def is_mixed(self) -> bool:
        """Return whether all weights are trained in float32 and computed in 16 bits, by autocast."""
        return self.method == "full" and self.adapter_dtype == "float32" and self.base_dtype != "float32"

    @property
    def weights_dtype(self) -> Dtype:
        """Return the element type of the model's own weights."""
        return self.adapter_dtype if self.method == "full" else self.base_dtype

    @property
    def optimizer_family(self) -> str:
        """Return the optimizer's family: `AdamW, fused` and `adamw_torch` are the same."""
        name = self.optimizer.lower()
        bits = "8bit " if re.search(r"8-?bit", name) else "4bit " if re.search(r"4-?bit", name) else ""
        paged = "paged " if "paged" in name else ""
        known = ("adafactor", "adagrad", "adamw", "adam", "lion", "sgd", "muon", "lamb")
        return paged + bits + next((each for each in known if each in name), name)

    @property
    def trained_parameters(self) -> int:
        """Parameters with a gradient."""
        if self.method == "full":
            return self.shape.num_parameters
        whole = self.shape.vocab_size * self.shape.hidden_size * len(self.whole_modules)
        adapter = self.shape.adapter_parameters(self.rank, self.target_modules)
        return adapter + self.magnitudes * self.shape.num_layers + whole

    @property
    def magnitudes(self) -> int:
        """Trained magnitudes of DoRA in a block, one per output of an adapted layer."""
        if self.variant != "dora" or self.method == "full":
            return 0
        return sum(linear.outputs for linear in self.shape.linears if linear.name in self.target_modules)


class MemoryVerdict(StrEnum):
    """Verdict on whether the memory suffices."""

    FITS = "FITS"
    """The upper end of the interval is below the capacity."""
    UNCERTAIN = "UNCERTAIN"
    """The capacity is inside the interval: measure before queueing."""
    OOM = "OOM"
    """The lower end is above the capacity."""
    UNKNOWN = "UNKNOWN"
    """Unknown capacity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WhatIf:
    """Change of a setting, and its predicted effect."""

    change: str
    """In words: `gradient checkpointing`."""
    reserved_gib: float
    """Memory with it."""
    step_time_factor: float
    """Time of a step with it, over that without."""
    allocated_gib: float | None = None
    """Allocated part of that memory."""
    reason: str = ""
    """Reason of the change, and source of the factor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Peak memory of a training step."""

    allocated: Estimate
    """Tensors of the framework, GiB."""
    reserved: Estimate
    """With the cache of the framework's allocator, GiB."""
    process: Estimate
    """What the device shows for the process (the allocator's and the context of the driver), GiB; on a CPU, its
    resident memory."""
    breakdown: Mapping[str, float]
    """GiB of `allocated` by part: weights, adapter, optimizer, gradients, layers, logits, other."""
    capacity_gib: Measured
    """Memory of the device."""
    verdict: MemoryVerdict
    """Whether `process` fits."""
    assumption: str
    """The assumption that moves the figure most."""
    what_ifs: tuple[WhatIf, ...] = ()
    """Changes worth considering."""
    remedies: tuple[str, ...] = ()
    """Settings with each of which its upper end fits, as one types them: `train.gradient_checkpointing=true`. Given
    where the verdict is OOM."""

    def of_kind(self, kind: MemoryKind) -> Estimate:
        """Return the estimate of a kind of memory."""
        return {"allocated": self.allocated, "reserved": self.reserved, "process": self.process}[kind]


PastUse = Literal["time", "memory"]
"""Quantity that a past run may be evidence for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRunGroup:
    """Past runs with the same reason."""

    count: int
    """Number of runs."""
    runs: tuple[str, ...]
    """Names of the first hundred."""
    of: tuple[PastUse, ...]
    """Quantities that the reason is about."""
    reason: str
    """Reason, with the range of its figures over the runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRunsUsed:
    """Past runs that were found, those that estimates are based on, and why not the others."""

    found: int
    """Number of past runs."""
    time: tuple[str, ...]
    """Runs used for time."""
    memory: tuple[str, ...]
    """Runs used for memory."""
    left_out: tuple[PastRunGroup, ...] = ()
    """Runs that were not used, by reason."""
    assumed: tuple[PastRunGroup, ...] = ()
    """Used runs whose logs do not state all settings, by the settings that were taken as those of the estimate."""


PACKING_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingSide:
    """Packed or unpacked batching of one epoch."""

    packs: int
    """Rows: packs, or examples where nothing is packed."""
    lower_bound: int
    """Rows that no packer can do without."""
    density: float
    """Examples per sequence."""
    efficiency: float
    """Per cent of the computed tokens that are no padding."""
    steps_per_epoch: int
    """Optimizer steps, with the trainer's own rounding."""
    steps_per_epoch_low: int
    """The fewest, where the order cannot be known beforehand; else the same."""
    steps_per_epoch_high: int
    """The most, where the order cannot be known beforehand; else the same."""
    examples_per_step: float
    """Examples that one optimizer step learns from, on average."""
    largest_micro_batch_tokens: int
    """Padded tokens of the largest micro-batch: what decides on memory."""
    padded_tokens: int
    """Tokens computed in an epoch, padding included."""
    truncated: int
    """Examples that lose tokens."""
    answers_cut: int
    """Of these, examples that lose tokens with a loss."""
    dropped: int
    """Examples that are left out."""
    notes: tuple[str, ...] = ()
    """What this trainer does that one would not expect."""
    micro_batch_size: int | None = None
    """Rows per forward pass; None in a summary of an earlier version, which has one for both ways."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingSummary:
    """Both ways, and what to make of it."""

    schema_version: int = PACKING_SCHEMA_VERSION
    """Version of this form, which `touchline pack --json` prints."""
    backend: str
    """Whose batching it is; `touchline` for our own packer over the whole split."""
    max_seq_len: int
    """Most tokens per sequence."""
    micro_batch_size: int
    """Rows per forward pass without packing."""
    examples: int
    """Examples in the split."""
    packed: PackingSide
    """Several examples per sequence."""
    unpacked: PackingSide
    """One example per sequence."""
    advice: tuple[str, ...]
    """Sentences with their reasons."""
