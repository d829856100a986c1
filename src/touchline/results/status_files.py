"""Content of runs_status.yaml and of each run_metrics.yaml, under the keys of earlier tools.

A key that does not apply (GPU memory of a run on a CPU) stays empty with a reason, and the measured value has a key of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from touchline.core.quantity import Measured, Missing, Quantity, number_of
from touchline.core.units import in_unit
from touchline.experiment.write import to_yaml
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


_STATUS_HEADER = """\
# Status and measurements of every run of this experiment, derived from the plan and the run folders.
# `touchline collect` overwrites this file. null: unknown, see `missing`.
"""
_METRICS_HEADER = """\
# Settings and measurements of this run, derived from its folder.
# `touchline collect` overwrites this file. null: unknown, see `missing`.
"""


def runs_status_text(experiment: str, runs: Sequence[RunMetrics]) -> str:
    """Return the text of runs_status.yaml."""
    parts = [_status(run) for run in runs]
    return _STATUS_HEADER + to_yaml({"schema_version": 1, "experiment": experiment, "runs": parts})


def _status(run: RunMetrics) -> dict[str, object]:
    sections = {**run.packing_metrics, **run.resource_metrics, **run.performance_metrics}
    return {
        "name": run.run_name,
        "status": run.status,
        "slurm_job_id": run.job_id,
        "started": run.started,
        "completed": run.completed,
        "config": dict(run.static_config),
        "metrics": _values(sections),
        "missing": _reasons(sections),
    }


def run_metrics_text(run: RunMetrics) -> str:
    """Return the text of run_metrics.yaml."""
    sections = {**run.packing_metrics, **run.resource_metrics, **run.performance_metrics}
    return _METRICS_HEADER + to_yaml(
        {
            "schema_version": run.schema_version,
            "run_name": run.run_name,
            "status": run.status,
            "timestamp": run.started,
            "started": run.started,
            "completed": run.completed,
            "static_config": dict(run.static_config),
            "packing_metrics": {**_values(run.packing_metrics), "dataset_path": run.dataset_path},
            "resource_metrics": _values(run.resource_metrics),
            "performance_metrics": _values(run.performance_metrics),
            "per_epoch_metrics": [
                {
                    "epoch": epoch.epoch,
                    "training_time_minutes": _short(epoch.training_time_minutes),
                    "mean_train_loss": _short(epoch.mean_train_loss),
                    "validation_loss": _short(epoch.validation_loss),
                    "peak_memory_gib": _short(number_of(epoch.peak_memory)),
                }
                for epoch in run.per_epoch_metrics
            ],
            "how": {name: how for name, fact in sections.items() if (how := _how(fact))},
            "missing": _reasons(sections),
            "notes": list(run.notes),
        }
    )


def _values(facts: Mapping[str, Measured]) -> dict[str, object]:
    """Return plain numbers; a token rate gets its token unit as a further key."""
    values: dict[str, object] = {}
    for name, fact in facts.items():
        values[name] = _short(number_of(fact))
        if isinstance(fact, Quantity) and fact.token_unit is not None and "token" in fact.unit:
            values[f"{name}_unit"] = fact.token_unit
    return values


def _reasons(facts: Mapping[str, Measured]) -> dict[str, object]:
    return {name: fact.missing for name, fact in facts.items() if isinstance(fact, Missing)}


def _how(fact: Measured) -> str:
    if isinstance(fact, Missing):
        return ""
    parts = (fact.unit, fact.aggregation, fact.phase, fact.kind, fact.token_unit, fact.method, fact.where)
    return ", ".join(part for part in parts if part)


def _short(value: float | None) -> float | int | None:
    """Round to six significant digits: more is noise and differs between machines."""
    if value is None:
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
