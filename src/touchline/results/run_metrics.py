"""Metrics of a run: from metrics.jsonl of our trainer, else from its logs."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import Attempt, JobState, RunStatus
from touchline.core.units import GIB
from touchline.data.metrics import Metrics, StepRow, after_warm_up
from touchline.data.metrics_file import read_metrics
from touchline.history.reading import RunReading
from touchline.results.collected import EpochMetrics, RunMetrics, Setting
from touchline.results.run_result import RunResult
from touchline.run.resources import read_resources, resource_figures
from touchline.run.statusfiles import read_attempts
from touchline.spec.plan import PlannedRun

GB = 1e9
ON_PROCESSOR = Missing(missing="trained on a CPU")
_ENDED = (RunStatus.TRAINED, RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)


def run_metrics(run: PlannedRun, result: RunResult, folder: Path) -> RunMetrics:
    """Return all metrics of one run.

    Args:
        run: planned run.
        result: its result.
        folder: run folder.
    """
    metrics = read_metrics(folder / "metrics.jsonl")
    attempts = read_attempts(folder / "status")
    reading = None if metrics.steps or run.train is None else _from_logs(folder)
    if reading is not None:
        packing, resources, performance = _read_packing(reading), _read_resources(reading), _read_performance(reading)
    else:
        nothing = Missing(missing="a control trains nothing" if run.train is None else "no step has been measured")
        packing = _packing(run, metrics, nothing)
        resources = _resources(metrics, result, nothing)
        performance = _performance(metrics, result, nothing)
    last = attempts[-1] if attempts else None
    return RunMetrics(
        run_name=run.name,
        status=result.status.value,
        job_id=last.start.job_id if last is not None else None,
        started=_iso(attempts[0].start.time_unix) if attempts else None,
        completed=_completed(result, attempts),
        static_config=static_config(run),
        packing_metrics=packing,
        resource_metrics=_with_samples(
            resources, resource_figures(read_resources(folder / "status")), on_cpu=_is_on_cpu(metrics)
        ),
        performance_metrics=performance,
        per_epoch_metrics=_epochs(metrics),
        dataset_path=run.dataset,
        versions=_versions(metrics) if reading is None else printed_versions(reading),
        notes=tuple(str(note) for note in result.notes),
    )


def _versions(metrics: Metrics) -> dict[str, str]:
    """Return the versions of all attempts; `2.12.0, then 2.13.0` for a change between them."""
    names = dict.fromkeys(name for row in metrics.attempts for name in row.versions)
    return {
        name: ", then ".join(dict.fromkeys(row.versions[name] for row in metrics.attempts if name in row.versions))
        for name in names
    }


def printed_versions(reading: RunReading) -> dict[str, str]:
    """Return the versions printed in a log of another trainer."""
    pairs = (each.partition("=") for each in reading.versions)
    return {name.strip(): version.strip() for name, _, version in pairs if version.strip()}


def static_config(run: PlannedRun) -> dict[str, Setting]:
    """Return the settings of a run that affect its cost; of a control only the model and seed."""
    config: dict[str, Setting] = {"model": run.model, "seed": run.seed}
    if run.train is None or run.batches is None:
        return config
    train = run.train
    return config | {
        "batch_size": run.batches.micro_batch_size,
        "packed": None if train.packed == "auto" else train.packed,
        "max_seq_len": train.max_seq_len,
        "gradient_accumulation_steps": run.batches.gradient_accumulation_steps,
        "effective_batch_size": run.batches.global_batch_size,
        "lora_rank": train.lora.rank,
        "lora_alpha": train.lora.alpha if train.lora.alpha is not None else 2.0 * train.lora.rank,
        "learning_rate": train.learning_rate,
        "epochs": train.epochs,
        "steps": run.batches.steps,
    }


def _from_logs(folder: Path) -> RunReading | None:
    """Return the newest run in the job output of another trainer."""
    # The readers of every trainer's logs are loaded only where another trainer was at work.
    from touchline.history.files import LoggedRun, find_runs

    logs = sorted([*folder.glob("slurm-*.out"), *folder.glob("trainer_log.jsonl"), *folder.glob("trainer_state.json")])
    found = [each.reading for each in find_runs(logs) if isinstance(each, LoggedRun)] if logs else []
    return found[-1] if found else None


def _completed(result: RunResult, attempts: Sequence[Attempt]) -> str | None:
    ended = [each.exit for each in attempts if each.exit is not None and each.state is JobState.COMPLETED]
    return _iso(ended[-1].time_unix) if ended and result.status in _ENDED else None


def _iso(unix: float) -> str:
    return datetime.datetime.fromtimestamp(int(unix), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _packing(run: PlannedRun, metrics: Metrics, nothing: Missing) -> dict[str, Measured]:
    examples: Measured = nothing
    if run.batches is not None:
        examples = Quantity(value=run.batches.num_examples, unit="examples", method="as planned")
    layout = metrics.attempts[-1].layout if metrics.attempts else None
    efficiency = _efficiency(metrics.steps, layout, nothing)
    if layout is None or isinstance(run.packing, Missing) or run.train is None:
        rows = nothing if layout is None else Missing(missing=f"rows of the layout {layout!r} are not counted")
        return {
            "total_examples": examples,
            "total_sequences": rows,
            "packing_density": rows,
            "packing_efficiency": efficiency,
        }
    # The trainer consumes the micro-batches that were planned, or refuses them.
    side = run.packing.packed if run.train.packed else run.packing.unpacked
    planned = "of the planned micro-batches"
    if isinstance(efficiency, Missing) and metrics.steps:
        efficiency = Quantity(value=side.efficiency, unit="%", aggregation="mean", method=planned)
    return {
        "total_examples": examples,
        "total_sequences": Quantity(value=side.packs, unit="sequences", method=planned),
        "packing_density": Quantity(value=side.density, unit="examples/sequence", method=planned),
        "packing_efficiency": efficiency,
    }


def _efficiency(steps: Sequence[StepRow], layout: str | None, nothing: Missing) -> Measured:
    real, computed = sum(row.real_tokens for row in steps), sum(row.padded_tokens for row in steps)
    if not steps or not computed:
        return nothing
    if real > computed:
        return Missing(missing="a shared prefix is computed once, so fewer positions than tokens are computed")
    method = f"real tokens ÷ computed positions, layout {layout}"
    return Quantity(value=100 * real / computed, unit="%", aggregation="mean", method=method)


def _resources(metrics: Metrics, result: RunResult, nothing: Missing) -> dict[str, Measured]:
    steps, cuda = metrics.steps, bool(metrics.attempts) and metrics.attempts[-1].device_kind == "cuda"
    on_cpu = nothing if not steps else ON_PROCESSOR
    peak, percents = (
        result.peak_memory,
        [row.gpu_percent.value for row in steps if isinstance(row.gpu_percent, Quantity)],
    )
    gpu_peak: Measured = on_cpu
    process_peak: Measured = nothing if not steps else Missing(missing="trained on a GPU")
    if isinstance(peak, Quantity) and peak.unit == "B":
        if peak.kind == "process":
            process_peak = _scaled(peak, GIB, "GiB")
        elif cuda:
            gpu_peak = _scaled(peak, GB, "GB")
    utilisation: Measured = on_cpu
    if percents:
        utilisation = Quantity(value=statistics.fmean(percents), unit="%", phase="step", aggregation="mean")
    elif cuda:
        utilisation = Missing(missing="the driver gave none")
    return {
        "peak_gpu_memory_gb": gpu_peak,
        "avg_gpu_memory_gb": on_cpu if not cuda else Missing(missing="nothing sampled it; a peak is no mean"),
        "peak_process_memory_gib": process_peak,
        "gpu_utilization_pct": utilisation,
        "training_time_minutes": _minutes(result.train_seconds),
        "validation_time_minutes": _minutes(result.validation_seconds),
        "saving_time_minutes": _saving(metrics, nothing),
    }


def _is_on_cpu(metrics: Metrics) -> bool:
    return bool(metrics.steps) and not (metrics.attempts and metrics.attempts[-1].device_kind == "cuda")


def _with_samples(resources: dict[str, Measured], sampled: dict[str, Measured], *, on_cpu: bool) -> dict[str, Measured]:
    """Add the sampler's figures, or fill missing figures of the trainer with them."""
    gpu_peak, gpu_mean = _in(sampled["gpu_peak"], GB, "GB"), _in(sampled["gpu_mean"], GB, "GB")
    own = {
        "peak_gpu_memory_gb": gpu_peak,
        "avg_gpu_memory_gb": gpu_mean,
        "gpu_utilization_pct": sampled["gpu_busy"],
    }
    # Training on a CPU uses no GPU, whatever the machine's GPUs do.
    filled = {
        name: own[name]
        if name in own and isinstance(fact, Missing) and not on_cpu and isinstance(own[name], Quantity)
        else fact
        for name, fact in resources.items()
    }
    return filled | {
        "peak_gpu_memory_process_gb": gpu_peak,
        "avg_gpu_memory_process_gb": gpu_mean,
        "peak_tree_memory_gib": _in(sampled["tree_peak"], GIB, "GiB"),
        "avg_tree_memory_gib": _in(sampled["tree_mean"], GIB, "GiB"),
        "cpu_utilization_pct": sampled["cpu_mean"],
    }


def _in(fact: Measured, divisor: float, unit: str) -> Measured:
    """Convert bytes to another unit."""
    if isinstance(fact, Missing):
        return fact
    return replace(fact, value=fact.value / divisor, unit=unit)


def _scaled(peak: Quantity, divisor: float, unit: str) -> Quantity:
    return Quantity(
        value=peak.value / divisor, unit=unit, phase=peak.phase, kind=peak.kind, aggregation=peak.aggregation
    )


def _minutes(seconds: Measured) -> Measured:
    if isinstance(seconds, Missing):
        return seconds
    return Quantity(value=seconds.value / 60, unit="min", aggregation=seconds.aggregation, method=seconds.method)


def _saving(metrics: Metrics, nothing: Missing) -> Measured:
    if not metrics.checkpoints:
        return nothing if not metrics.steps else Missing(missing="nothing was saved yet")
    return Quantity(value=sum(row.seconds for row in metrics.checkpoints) / 60, unit="min", aggregation="sum")


def _performance(metrics: Metrics, result: RunResult, nothing: Missing) -> dict[str, Measured]:
    steps = after_warm_up(metrics.steps) or list(metrics.steps)
    seconds = sum(row.seconds for row in steps)
    pace: Measured = nothing
    examples: Measured = nothing
    if steps and seconds > 0:
        method = f"{len(steps)} steps after warm-up"
        pace = Quantity(
            value=statistics.median(row.seconds for row in steps), unit="s", aggregation="median", method=method
        )
        rate = sum(row.examples for row in steps) / seconds
        examples = Quantity(value=rate, unit="examples/s", aggregation="mean", method=method)
    return {
        "tokens_per_second": result.tokens_per_second,
        "examples_per_second": examples,
        "seconds_per_step": pace,
        "final_train_loss": result.final_train_loss,
        "final_validation_loss": result.final_val_loss,
    }


def _epochs(metrics: Metrics) -> tuple[EpochMetrics, ...]:
    epochs: dict[int, list[StepRow]] = {}
    for row in metrics.steps:
        epochs.setdefault(row.epoch, []).append(row)
    losses: Mapping[int, float] = {row.epoch: row.loss for row in metrics.validations if row.step > 0}
    return tuple(
        EpochMetrics(
            epoch=epoch,
            training_time_minutes=sum(row.seconds for row in rows) / 60,
            mean_train_loss=statistics.fmean(row.loss for row in rows),
            validation_loss=losses.get(epoch),
            peak_memory=_peak([row.peak_memory for row in rows]),
        )
        for epoch, rows in sorted(epochs.items())
    )


def _peak(peaks: Sequence[Measured]) -> Measured:
    """Return the largest peak in GiB."""
    known = [peak for peak in peaks if isinstance(peak, Quantity)]
    if not known:
        return Missing(missing="no step logged its memory")
    return _scaled(max(known, key=lambda peak: peak.value), GIB, "GiB")


def _read_packing(reading: RunReading) -> dict[str, Measured]:
    return {
        "total_examples": reading.total_examples,
        "total_sequences": reading.total_sequences,
        "packing_density": reading.packing_density,
        "packing_efficiency": reading.packing_efficiency,
    }


def _read_resources(reading: RunReading) -> dict[str, Measured]:
    peak = reading.peak_memory
    gigabytes: Measured = peak
    if isinstance(peak, Quantity) and peak.unit == "GiB":
        gigabytes = Quantity(
            value=peak.value * GIB / GB,
            unit="GB",
            phase=peak.phase,
            kind=peak.kind,
            aggregation="peak",
            where=peak.where,
        )
    return {
        "peak_gpu_memory_gb": gigabytes,
        "avg_gpu_memory_gb": reading.mean_memory,
        "gpu_utilization_pct": reading.gpu_utilization_percent,
        "training_time_minutes": _minutes(reading.train_seconds),
        "validation_time_minutes": _minutes(reading.evaluate_seconds),
        "saving_time_minutes": _minutes(reading.save_seconds),
    }


def _read_performance(reading: RunReading) -> dict[str, Measured]:
    return {
        "tokens_per_second": reading.tokens_per_second,
        "examples_per_second": reading.examples_per_second,
        "seconds_per_step": reading.seconds_per_step_without_pauses,
        "final_train_loss": reading.last_loss,
        "final_validation_loss": reading.eval_loss,
    }
