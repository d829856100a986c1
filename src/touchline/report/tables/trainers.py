"""Agreement of trainers: runs that differ in nothing but the trainer, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.levels import BACKEND
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Column, Table, Value, table_of
from touchline.experiment.runs import RunKind
from touchline.results.run_result import LossPoint, RunResult

_NO_STEP = Missing(missing="no step in common")
_COLUMNS = (
    Column("run", code=True),
    Column("compared with", code=True),
    Column("trainers"),
    Column("steps", numeric=True, note="Steps that both have"),
    Column("first step", numeric=True, unit="nats", digits=2, note="Difference of the losses of the first step"),
    Column("largest", numeric=True, unit="nats", digits=2, note="Largest difference of the losses of a step"),
    Column("validation", numeric=True, unit="nats", digits=2, note="Difference of the final validation losses"),
    Column("step time", numeric=True, form=".2f", note="Ratio of the times per step"),
    Column("peak memory", numeric=True, form=".2f", note="Ratio of the peaks"),
)
_NOTE = (
    "Each run is compared with the run of the first trainer that has the same other levels and the same seed. Losses "
    "are training losses in nats; a difference of 0 at the first step means the same examples, labels and initial "
    "weights. Ratios are the run's figure divided by that of the run it is compared with."
)


def agreement_table(runs: Sequence[RunResult]) -> Table | None:
    """Return a row per run that has a counterpart of another trainer. None if the trainer is not a factor."""
    pairs = list(_pairs([run for run in runs if run.kind is RunKind.FINE_TUNED]))
    return table_of(_COLUMNS, (_row(*pair) for pair in pairs), "Agreement of trainers", by_run=True, notes=(_NOTE,))


def _pairs(runs: Sequence[RunResult]) -> Iterator[tuple[RunResult, RunResult]]:
    """Yield (run, run of the first trainer) with equal other levels and seed."""
    first: dict[object, RunResult] = {}
    for run in runs:
        levels = {level.factor: level.value for level in run.levels}
        if levels.pop(BACKEND, None) is None:
            continue
        key = (run.model, run.seed, tuple(sorted(levels.items())))
        if key in first:
            yield run, first[key]
        first.setdefault(key, run)


def _row(run: RunResult, other: RunResult) -> tuple[Value, ...]:
    differences = step_differences(run.train_losses, other.train_losses)
    return (
        run.name,
        other.name,
        f"{_trainer(run)}, {_trainer(other)}",
        len(differences),
        _nats(differences[0]) if differences else _NO_STEP,
        _nats(max(map(abs, differences))) if differences else _NO_STEP,
        _difference(run.final_val_loss, other.final_val_loss),
        _ratio(run.seconds_per_step, other.seconds_per_step),
        _ratio(run.peak_memory, other.peak_memory),
    )


def step_differences(losses: Sequence[LossPoint], others: Sequence[LossPoint]) -> list[float]:
    """Return the differences of the losses at the steps that both have, in order of the steps, in nats."""
    by_step = {point.step: point.loss for point in others}
    return [point.loss - by_step[point.step] for point in losses if point.step in by_step]


def _trainer(run: RunResult) -> str:
    return next(level.value for level in run.levels if level.factor == BACKEND)


def _nats(value: float) -> Quantity:
    return Quantity(value=value, unit="nats")


def _difference(value: Measured, other: Measured) -> Measured:
    if isinstance(value, Missing) or isinstance(other, Missing):
        return value if isinstance(value, Missing) else other
    return _nats(value.value - other.value)


def _ratio(value: Measured, other: Measured) -> Measured:
    """Return the ratio of two figures of the same unit and kind."""
    if isinstance(value, Missing) or isinstance(other, Missing):
        return value if isinstance(value, Missing) else other
    if (value.unit, value.kind) != (other.unit, other.kind) or not other.value:
        return Missing(missing="figures of different units or kinds")
    return Quantity(value=value.value / other.value, unit="1")
