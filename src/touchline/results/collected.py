"""What `collect` writes: runs_status.yaml of an experiment, and run_metrics.yaml of each run.

Both are derived from the plan and the run folders, which alone are the truth. The keys are those that users of earlier
tools know; where such a key would say something untrue (GPU memory of a run on a processor), it stays empty, says why,
and what was measured stands under a key of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from touchline.core.quantity import NO_EVIDENCE, Measured

Setting = str | int | float | bool | None
"""One setting of a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """One epoch of a training."""

    epoch: int
    """Counts from 0."""
    training_time_minutes: float
    """Wall time of its steps."""
    mean_train_loss: float
    """Mean over its steps, in nats."""
    validation_loss: float | None
    """The last one of the epoch, in nats; none when none was taken."""
    peak_memory: Measured = NO_EVIDENCE
    """Peak from the first step of the attempt to the end of the epoch, in GiB; its kind is that of the steps' rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics:
    """One run: its settings and what was measured, under the keys of the YAML files."""

    schema_version: int = 1
    """Version of this form."""
    run_name: str
    """The run."""
    status: str
    """How it stands, a `RunStatus`."""
    job_id: str | None
    """Its last job; none before one was started."""
    started: str | None
    """When its first attempt began, ISO 8601 in UTC."""
    completed: str | None
    """When its last attempt ended well, ISO 8601 in UTC."""
    static_config: dict[str, Setting]
    """What was known before it ran."""
    packing_metrics: dict[str, Measured]
    """total_examples, total_sequences, packing_density, packing_efficiency."""
    resource_metrics: dict[str, Measured]
    """Memory by kind, utilisation, duration."""
    performance_metrics: dict[str, Measured]
    """Rates and losses."""
    per_epoch_metrics: tuple[EpochMetrics, ...]
    """Epoch by epoch."""
    dataset_path: str
    """Its dataset."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the libraries that trained it; empty where none were recorded."""
    notes: tuple[str, ...]
    """What a reader must know."""
