"""Figures of a training, each derived in one place: from metrics.jsonl of our trainer, else from a trainer's log."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.units import in_unit, seconds_to_minutes
from touchline.data.metrics import Metrics, StepRow, steady_steps, timed_steps, token_rate
from touchline.data.metrics_file import METRICS
from touchline.experiment.plan import PlannedRun
from touchline.experiment.settings import COLLECTED, value_of
from touchline.history.reading import SourcedText
from touchline.history.record import PackingFacts, RunRecord, first
from touchline.results.run_result import ON_CPU, EpochMetrics, RunFigures, Setting

_LAST_STEPS = 10
"""Steps that the final training loss is the mean of."""


def static_config(run: PlannedRun) -> dict[str, Setting]:
    """Return the settings of a run that affect its cost; of a control only the model and seed."""
    config: dict[str, Setting] = {"model": run.model, "seed": run.seed}
    if run.train is None or run.batches is None:
        return config
    decided: dict[str, Setting] = {
        "train.micro_batch_size": run.batches.micro_batch_size,
        "train.gradient_accumulation_steps": run.batches.gradient_accumulation_steps,
        "train.global_batch_size": run.batches.global_batch_size,
        "train.lora.alpha": run.train.lora.resolved_alpha,
    }
    for name, key in COLLECTED.items():
        if key.startswith("train.lora.") and run.train.trains_all:
            config[name] = None
        elif key.startswith("train."):
            value: Any = decided[key] if key in decided else value_of(run, key)
            config[name] = None if value == "auto" else value
    return config | {"steps": run.batches.steps}


def own_fields(figures: RunFigures) -> dict[str, Any]:
    """Return the figures by name, for a `RunResult` that holds them."""
    return {each.name: getattr(figures, each.name) for each in fields(figures)}


def no_figures(nothing: Missing) -> RunFigures:
    """Return the figures of a run of which nothing was measured, each with this reason."""
    packing = PackingFacts(**dict.fromkeys((each.name for each in fields(PackingFacts)), nothing))
    names = (each.name for each in fields(RunFigures) if each.type == "Measured" and each.name != "data_wait")
    figures: dict[str, Any] = dict.fromkeys(names, nothing)
    return RunFigures(**figures, packing=packing)


# ---- from a log ------------------------------------------------------------------------------------------------------


def figures_of_log(record: RunRecord, placed: Callable[[Measured], Measured] = lambda value: value) -> RunFigures:
    """Return the figures that the log of another trainer holds.

    Args:
        placed: gives a figure's place in the log as the user should see it.
    """
    costs, packing = record.costs, record.packing
    versions = (each.partition("=") for each in record.stack.versions)
    return RunFigures(
        train_seconds=placed(costs.train_seconds),
        validation_seconds=placed(costs.evaluate_seconds),
        saving_seconds=placed(costs.save_seconds),
        final_train_loss=_logged_loss(placed(record.losses.last)),
        final_val_loss=_logged_loss(placed(record.losses.evaluation)),
        tokens_per_second=_logged_rate(placed(first(costs.tokens_per_second))),
        examples_per_second=placed(costs.examples_per_second),
        seconds_per_step=placed(costs.seconds_per_step_without_pauses),
        peak_memory=in_unit(placed(first(costs.peak_memory)), "B"),
        mean_memory=in_unit(placed(costs.mean_memory), "B"),
        gpu_utilization=placed(costs.gpu_utilization_percent),
        packing=PackingFacts(
            packed=packing.packed,
            examples=placed(packing.examples),
            sequences=placed(packing.sequences),
            density=placed(packing.density),
            efficiency=placed(packing.efficiency),
        ),
        versions={name.strip(): version.strip() for name, _, version in versions if version.strip()},
    )


def _logged_loss(value: Measured) -> Measured:
    if isinstance(value, Missing):
        return value
    return replace(value, unit="1", method=value.method or "last logged value")


def _logged_rate(value: Measured) -> Measured:
    if isinstance(value, Missing) or value.aggregation != "last":
        return value
    return replace(value, method="last logged value, of one step")


def _train_seconds(metrics: Metrics) -> Quantity:
    """Return the seconds of all steps; in a cohort, the run's share of those of all its runs."""
    whole = Quantity(value=metrics.steps[-1].elapsed_seconds, unit="s", aggregation="sum", where=METRICS)
    runs = {row.attempt: 1 + len(row.cohort) for row in metrics.attempts}
    if max(runs.values(), default=1) == 1:
        return whole
    own = sum(row.seconds / runs.get(row.attempt, 1) for row in metrics.steps)
    return replace(whole, value=own, method="its share of the cohort's time")


# ---- from metrics.jsonl ----------------------------------------------------------------------------------------------


def figures_of_metrics(run: PlannedRun, metrics: Metrics, nothing: Missing) -> RunFigures:
    """Return the figures of a training by our own trainer.

    Args:
        nothing: reason for missing figures where no step was measured.
    """
    steps, validations = metrics.steps, metrics.timed_validations
    device = metrics.attempts[-1].device_kind if metrics.attempts and steps else None
    timed = timed_steps(steps)
    steady = steady_steps(steps) or timed
    figures = replace(
        no_figures(nothing),
        packing=_packing(run, metrics, nothing),
        versions=_versions(metrics),
        epochs=_epochs(metrics),
        device=device,
        cohort=metrics.attempts[-1].cohort if metrics.attempts else (),
    )
    if validations:
        lasted = Quantity(value=validations[-1].elapsed_seconds, unit="s", aggregation="sum", where=METRICS)
        figures = replace(figures, validation_seconds=lasted)
    if not steps:
        return figures
    return replace(
        figures,
        train_seconds=_train_seconds(metrics),
        validation_seconds=figures.validation_seconds if validations else Missing(missing="no validation yet"),
        saving_seconds=Quantity(value=sum(row.seconds for row in metrics.checkpoints), unit="s", aggregation="sum")
        if metrics.checkpoints
        else Missing(missing="no checkpoint yet"),
        final_train_loss=_final_train_loss(steps),
        final_val_loss=_final_val_loss(metrics),
        tokens_per_second=Quantity(
            value=token_rate(timed),
            unit="tokens/s",
            token_unit="real",
            aggregation="mean",
            method="without each attempt's first step",
            where=METRICS,
        )
        if timed
        else nothing,
        examples_per_second=Quantity(
            value=sum(row.examples for row in timed) / sum(row.seconds for row in timed),
            unit="examples/s",
            aggregation="mean",
            method=f"{len(timed)} steps after warmup",
        )
        if timed
        else nothing,
        seconds_per_step=Quantity(
            value=statistics.median(row.seconds for row in steady),
            unit="s",
            aggregation="median",
            method=f"{len(steady)} steps after warmup",
        )
        if steady
        else nothing,
        peak_memory=largest_peak(steps, nothing),
        mean_memory=Missing(missing="not sampled") if device == "cuda" else ON_CPU,
        gpu_utilization=_gpu_utilization(steps, device),
        data_wait=data_wait(steps),
    )


def largest_peak(steps: Sequence[StepRow], nothing: Missing) -> Measured:
    """Return the largest peak memory that a step logged."""
    peaks = [row.peak_memory for row in steps if isinstance(row.peak_memory, Quantity)]
    return replace(max(peaks, key=lambda peak: peak.value), where=METRICS) if peaks else nothing


def _final_train_loss(steps: Sequence[StepRow]) -> Measured:
    last = steps[-_LAST_STEPS:]
    found = Quantity(
        value=statistics.fmean(row.loss for row in last),
        unit="1",
        aggregation="mean",
        token_unit="label",
        method=f"mean of the last {len(last)} steps",
        where=METRICS,
    )
    return finite(found)


def _final_val_loss(metrics: Metrics) -> Measured:
    if not metrics.validations or metrics.validations[-1].step == 0:
        return Missing(missing="no validation after the first step")
    row = metrics.validations[-1]
    found = Quantity(
        value=row.loss,
        unit="1",
        aggregation="mean",
        token_unit="label",
        method=f"validation split, step {row.step}",
        where=METRICS,
    )
    return finite(found)


def _gpu_utilization(steps: Sequence[StepRow], device: str | None) -> Measured:
    percents = [row.gpu_percent.value for row in steps if isinstance(row.gpu_percent, Quantity)]
    if percents:
        return Quantity(value=statistics.fmean(percents), unit="%", phase="step", aggregation="mean")
    return Missing(missing="not reported by the driver") if device == "cuda" else ON_CPU


def data_wait(steps: Sequence[StepRow]) -> Measured:
    """Return the share of its steps' time that a training waited for images."""
    waits = [(row.data_seconds, row.seconds) for row in steps if row.data_seconds is not None]
    if not waits:
        return Missing(missing="no images were read")
    return Quantity(value=100 * sum(wait for wait, _ in waits) / sum(seconds for _, seconds in waits), unit="%")


def _versions(metrics: Metrics) -> dict[str, str]:
    """Return the versions of all attempts; `2.12.0, then 2.13.0` for a change between them."""
    names = dict.fromkeys(name for row in metrics.attempts for name in row.versions)
    return {
        name: ", then ".join(dict.fromkeys(row.versions[name] for row in metrics.attempts if name in row.versions))
        for name in names
    }


def _epochs(metrics: Metrics) -> tuple[EpochMetrics, ...]:
    epochs: dict[int, list[StepRow]] = {}
    for row in metrics.steps:
        epochs.setdefault(row.epoch, []).append(row)
    losses: Mapping[int, float] = {row.epoch: row.loss for row in metrics.validations if row.step > 0}
    return tuple(
        EpochMetrics(
            epoch=epoch,
            training_time_minutes=seconds_to_minutes(sum(row.seconds for row in rows)),
            mean_train_loss=statistics.fmean(row.loss for row in rows),
            validation_loss=losses.get(epoch),
            peak_memory=in_unit(largest_peak(rows, Missing(missing="no step logged its memory")), "GiB"),
        )
        for epoch, rows in sorted(epochs.items())
    )


def _packing(run: PlannedRun, metrics: Metrics, nothing: Missing) -> PackingFacts:
    last = metrics.attempts[-1] if metrics.attempts else None
    efficiency = _efficiency(metrics.steps, last.layout if last is not None else None, nothing)
    facts = PackingFacts(
        packed=nothing if last is None else SourcedText(value=str(last.packed).lower(), where=METRICS),
        examples=nothing
        if run.batches is None
        else Quantity(value=run.batches.num_examples, unit="examples", method="as planned"),
        sequences=nothing,
        density=nothing,
        efficiency=efficiency,
    )
    if last is None:
        return facts
    if isinstance(run.packing, Missing) or run.train is None:
        uncounted = Missing(missing=f"rows of the layout {last.layout!r} are not counted")
        return replace(facts, sequences=uncounted, density=uncounted)
    # The trainer consumes the micro-batches that were planned, or refuses them.
    side = run.packing.packed if run.train.packed else run.packing.unpacked
    planned = "of the planned micro-batches"
    if isinstance(efficiency, Missing) and metrics.steps:
        efficiency = Quantity(value=side.efficiency, unit="%", aggregation="mean", method=planned)
    return replace(
        facts,
        sequences=Quantity(value=side.packs, unit="sequences", method=planned),
        density=Quantity(value=side.density, unit="examples/sequence", method=planned),
        efficiency=efficiency,
    )


def _efficiency(steps: Sequence[StepRow], layout: str | None, nothing: Missing) -> Measured:
    real, computed = sum(row.real_tokens for row in steps), sum(row.padded_tokens for row in steps)
    if not steps or not computed:
        return nothing
    if real > computed:
        return Missing(missing="a shared prefix is computed once, so fewer positions are computed than tokens")
    method = f"non-padding tokens ÷ computed tokens, layout {layout}"
    return Quantity(value=100 * real / computed, unit="%", aggregation="mean", method=method)
