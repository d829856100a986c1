"""Files written by `collect`: runs_status.yaml per experiment and run_metrics.yaml per run.

Both are derived from the plan and the run folders. The keys are those of earlier tools. A key that does not apply (GPU
memory of a run on a CPU) stays empty with a reason, and the measured value has a key of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from touchline.core.quantity import NO_EVIDENCE, Measured

Setting = str | int | float | bool | None
"""Value of a run setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """Measurements of one epoch."""

    epoch: int
    """Epoch, counted from 0."""
    training_time_minutes: float
    """Wall-clock time of its steps."""
    mean_train_loss: float
    """Mean over its steps, in nats."""
    validation_loss: float | None
    """Last validation loss of the epoch, in nats; None if there was no validation."""
    peak_memory: Measured = NO_EVIDENCE
    """Peak from the first step of the attempt to the end of the epoch, in GiB; its kind is that of the step rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics:
    """Settings and measurements of one run, under the keys of the YAML files."""

    schema_version: int = 1
    """Format version."""
    run_name: str
    """Run name."""
    status: str
    """A `RunStatus`."""
    job_id: str | None
    """Last job; None if none was started."""
    started: str | None
    """Start of the first attempt, ISO 8601 in UTC."""
    completed: str | None
    """End of the last successful attempt, ISO 8601 in UTC."""
    static_config: dict[str, Setting]
    """Planned settings."""
    packing_metrics: dict[str, Measured]
    """total_examples, total_sequences, packing_density, packing_efficiency."""
    resource_metrics: dict[str, Measured]
    """Memory by kind, utilization, duration."""
    performance_metrics: dict[str, Measured]
    """Rates and losses."""
    per_epoch_metrics: tuple[EpochMetrics, ...]
    """Measurements per epoch."""
    dataset_path: str
    """Dataset path."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the training libraries; empty if none were recorded."""
    notes: tuple[str, ...]
    """Limitations a reader must know."""
