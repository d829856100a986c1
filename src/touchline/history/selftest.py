"""Result of `touchline selftest`: the checks of a node, each ok, failed, or not run here with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from touchline.core.quantity import Measured, Missing

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
