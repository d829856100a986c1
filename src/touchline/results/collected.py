"""Files written by `collect`: runs_status.yaml per experiment and run_metrics.yaml per run.

Both are derived from the plan and the run folders. The keys are those of earlier tools. A key that does not apply (GPU
memory of a run on a CPU) stays empty with a reason, and the measured value has a key of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import in_unit
from touchline.results.run_result import ON_CPU, EpochMetrics, RunResult, Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics:
    """View of a `RunResult` under the keys of the YAML files."""

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


def run_metrics(run: RunResult) -> RunMetrics:
    """Return a run's settings and figures under the keys of the YAML files, in their units."""
    return RunMetrics(
        run_name=run.name,
        status=run.status.value,
        job_id=run.job_id,
        started=run.started,
        completed=run.completed,
        static_config=run.settings,
        packing_metrics={
            "total_examples": run.packing.examples,
            "total_sequences": run.packing.sequences,
            "packing_density": run.packing.density,
            "packing_efficiency": run.packing.efficiency,
        },
        resource_metrics=_resources(run),
        performance_metrics={
            "tokens_per_second": run.tokens_per_second,
            "examples_per_second": run.examples_per_second,
            "seconds_per_step": run.seconds_per_step,
            "final_train_loss": run.final_train_loss,
            "final_validation_loss": run.final_val_loss,
        },
        per_epoch_metrics=run.epochs,
        dataset_path=run.dataset,
        versions=run.versions,
        notes=tuple(str(note) for note in run.notes),
    )


def _resources(run: RunResult) -> dict[str, Measured]:
    on_cpu, sampled, peak = run.device == "cpu", run.sampled, run.peak_memory

    def known(fact: Measured, sample: str) -> Measured:
        other = sampled.get(sample)
        # Training on a CPU uses no GPU, whatever the machine's GPUs do.
        return other if isinstance(fact, Missing) and isinstance(other, Quantity) and not on_cpu else fact

    process = peak if on_cpu or isinstance(peak, Missing) else Missing(missing="trained on a GPU")
    found = {
        "peak_gpu_memory_gb": in_unit(ON_CPU if on_cpu else known(peak, "gpu_peak"), "GB"),
        "avg_gpu_memory_gb": in_unit(known(run.mean_memory, "gpu_mean"), "GB"),
        "peak_process_memory_gib": in_unit(process, "GiB"),
        "gpu_utilization_pct": known(run.gpu_utilization, "gpu_busy"),
        "training_time_minutes": in_unit(run.train_seconds, "min"),
        "validation_time_minutes": in_unit(run.validation_seconds, "min"),
        "saving_time_minutes": in_unit(run.saving_seconds, "min"),
    }
    if not sampled:
        return found
    return found | {
        "peak_gpu_memory_process_gb": in_unit(sampled["gpu_peak"], "GB"),
        "avg_gpu_memory_process_gb": in_unit(sampled["gpu_mean"], "GB"),
        "peak_tree_memory_gib": in_unit(sampled["tree_peak"], "GiB"),
        "avg_tree_memory_gib": in_unit(sampled["tree_mean"], "GiB"),
        "cpu_utilization_pct": sampled["cpu_mean"],
    }
