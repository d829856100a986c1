"""What `touchline check` answers."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.quantity import Measured
from touchline.lint.checked import FindingRow

CHECK_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedConfig:
    """One training that a config states, and whether it passed."""

    path: str
    """The config."""
    subject: str
    """The run's folder or name."""
    backend: str
    """The format it was read by."""
    model: str | None
    """The base model, as the config names it."""
    size: str | None
    """Its size, `1B`; null where nothing tells."""
    micro_batch_size: int | None
    """Rows per forward pass."""
    packed: bool | None
    """Whether several examples share a row."""
    max_seq_len: int | None
    """Tokens of a row at most."""
    gradient_accumulation_steps: int | None
    """Micro-batches per optimizer step."""
    gradient_checkpointing: bool | None
    """Whether activations are computed again."""
    effective_batch_examples: Measured
    """Examples per optimizer step; of packed rows with an interval where the density is not known."""
    passed: bool
    """Whether no error was found in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """Everything that was found under some paths."""

    schema_version: int = CHECK_SCHEMA_VERSION
    """Version of this form."""
    findings: tuple[FindingRow, ...]
    """What was found, by file and line."""
    configs: tuple[CheckedConfig, ...]
    """Every training that was read."""
    files: int
    """Files that were checked."""
    errors: int
    """Findings that stop a launch."""
    warnings: int
    """Findings that very probably are mistakes."""
