"""Text of runs_status.yaml and run_metrics.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.results.collected import RunMetrics
from touchline.spec.write import to_yaml

STATUS_SCHEMA_VERSION = 1
_STATUS_HEADER = """\
# How every run of this experiment stands, and what it measured. Derived from the plan and the run folders:
# `touchline collect` writes it again, and what is changed here by hand is lost. null: not known, see `missing`.
"""
_METRICS_HEADER = """\
# What this run was and measured. Derived from the run's folder: `touchline collect` writes it again, and what is
# changed here by hand is lost. null: not known, see `missing`.
"""


def runs_status_text(experiment: str, runs: Sequence[RunMetrics]) -> str:
    """Return the text of runs_status.yaml."""
    return _STATUS_HEADER + to_yaml(
        {
            "schema_version": STATUS_SCHEMA_VERSION,
            "experiment": experiment,
            "runs": [_status(run) for run in runs],
        }
    )


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


def run_part(run: RunMetrics) -> str:
    """Return the part of one run in runs_status.yaml, after `- name: `."""
    return runs_status_text("", [run]).partition("  - name: ")[2]


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
                    "training_time_minutes": _rounded(epoch.training_time_minutes),
                    "mean_train_loss": _rounded(epoch.mean_train_loss),
                    "validation_loss": None if epoch.validation_loss is None else _rounded(epoch.validation_loss),
                    "peak_memory_gib": _rounded(epoch.peak_memory.value)
                    if isinstance(epoch.peak_memory, Quantity)
                    else None,
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
        values[name] = _rounded(fact.value) if isinstance(fact, Quantity) else None
        if isinstance(fact, Quantity) and fact.token_unit is not None and "token" in fact.unit:
            values[f"{name}_unit"] = fact.token_unit
    return values


def _reasons(facts: Mapping[str, Measured]) -> dict[str, object]:
    return {name: fact.missing for name, fact in facts.items() if isinstance(fact, Missing)}


def _how(fact: Measured) -> str:
    """Return unit, aggregation, phase, kind and method of a number in words."""
    if isinstance(fact, Missing):
        return ""
    parts = (fact.unit, fact.aggregation, fact.phase, fact.kind, fact.token_unit, fact.method, fact.where)
    return ", ".join(part for part in parts if part)


def _rounded(value: float) -> float | int:
    """Round to six significant digits: more is noise and differs between machines."""
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
