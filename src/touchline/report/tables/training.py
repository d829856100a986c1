"""Tables of trainings: losses, steps, speed, memory, durations, predictions, packing, attempts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from touchline.core.levels import BACKEND
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import JobState
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.text import join_names
from touchline.core.units import plural
from touchline.experiment.runs import RunKind
from touchline.report.estimates import MEMORY, TRAINING
from touchline.report.facts import of_both
from touchline.report.report import EstimateRow, PackingRow, Report
from touchline.report.tables import table_from
from touchline.report.tables.runs import is_silent, losses_table, runs_in_numbers, trained_runs
from touchline.results.run_result import LossPoint, RunResult

_NAMES = 20
_MANY = 60  # Number of estimates above which those outside their interval come first
_RUN = Column("run", code=True)


def training_section(report: Report) -> Section:
    """Return losses, steps, speed and memory of the runs that train, and their packing."""
    trained = trained_runs(report)
    silent = [run.name for run, _ in trained if is_silent(run)]
    paragraphs = [] if trained else ["n/a (no run trains anything)"]
    if silent:
        paragraphs.append(f"n/a (nothing was measured yet): {join_names(silent, _NAMES)}.")
    return Section(
        title="Training results",
        paragraphs=tuple(paragraphs),
        tables=present(losses_table(report), runs_in_numbers(report), agreement_table(report.runs), _packing(report)),
        figures=("training",),
    )


def cost_section(report: Report) -> Section:
    """Return predictions against measured values, and attempts."""
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table | None, ...] = ()
    if report.estimates and all(isinstance(row.measured, Missing) for row in report.estimates):
        paragraphs = (f"{plural(len(report.estimates), 'prediction')} in plan.json; nothing was measured yet.",)
    else:
        tables = (_by_quantity(report.estimates), _estimates(report))
    return Section(
        title="Cost and predictions",
        paragraphs=tuple(paragraphs),
        tables=present(*tables, _attempts(report)),
        figures=("estimates",),
    )


def _by_quantity(estimates: Sequence[EstimateRow]) -> Table | None:
    by_quantity: dict[str, list[EstimateRow]] = {}
    for row in estimates:
        by_quantity.setdefault(row.quantity, []).append(row)
    labels = ("predictions", "inside the interval", "measured ÷ predicted, median")
    return table_of(
        ("quantity", *(Column(label, numeric=True) for label in labels)),
        [
            (name, sum(isinstance(row.predicted, Quantity) for row in rows), _count_inside(rows), _median_ratio(rows))
            for name, rows in by_quantity.items()
        ],
        "Predicted and measured",
    )


def _count_inside(rows: Sequence[EstimateRow]) -> Value:
    judged = [row for row in rows if row.inside is not None]
    inside = sum(bool(row.inside) for row in judged)
    return Cell(f"{inside} of {len(judged)}", inside) if judged else "- (none can be judged)"


def _median_ratio(rows: Sequence[EstimateRow]) -> Value:
    ratios = [
        row.measured.value / row.predicted.value
        for row in rows
        if row.inside is not None
        and isinstance(row.predicted, Quantity)
        and isinstance(row.measured, Quantity)
        and row.predicted.value > 0
    ]
    return Cell(f"{statistics.median(ratios):.2f}", statistics.median(ratios)) if ratios else None


def _estimates(report: Report) -> Table | None:
    """Return predicted and measured values. In a long table those outside their interval come first."""
    columns = (
        *(_RUN, Column("quantity")),
        Column("predicted", numeric=True, digits=3, interval=True),
        Column("measured", numeric=True, digits=3),
        Column("inside", note="Whether the measured value is inside the prediction interval"),
    )
    every = sorted(report.estimates, key=lambda row: len(report.estimates) > _MANY and row.inside is not False)
    runs = {run.name: run for run in report.runs}
    rows = [(row.run, row.quantity, row.predicted, row.measured, _inside(row, runs[row.run])) for row in every]
    return table_of(columns, rows, "Predictions by run", by_run=True)


def _inside(row: EstimateRow, run: RunResult) -> Cell:
    if row.inside is not None:
        return Cell("yes" if row.inside else "no", mark=Mark.GOOD if row.inside else Mark.BAD)
    if isinstance(row.predicted, Missing):
        return Cell("- (no estimate)")
    if isinstance(row.measured, Missing):
        return Cell("- (not measured)")
    if row.quantity == TRAINING:
        several = len(run.attempt_list) > 1
        return Cell("- (several attempts)" if several else "- (not complete, or not reported by its jobs)")
    return Cell("- (another kind of memory)" if row.quantity == MEMORY else "- (not of one kind)")


def _packing(report: Report) -> Table | None:
    counted = (value for row in report.packing for value in (row.density, row.efficiency, row.examples_per_second))
    if not any(isinstance(value, Quantity) for value in counted):
        return None
    efficiency = Column("efficiency (%)", numeric=True, form=".1f", note="Non-padding share of the computed tokens")
    columns: tuple[tuple[Column, Callable[[PackingRow], Value]], ...] = (
        (_RUN, lambda row: row.run),
        (Column("packed"), lambda row: row.packed),
        (Column("density (examples per sequence)", numeric=True, form=".2f"), lambda row: row.density),
        (efficiency, lambda row: row.efficiency),
        (Column("examples/s", numeric=True, form=",.3g"), lambda row: row.examples_per_second),
        (Column("peak memory", digits=3, kind=True), lambda row: row.peak_memory),
        (Column("reason"), lambda row: row.reason),
    )
    notes = ("Efficiency: non-padding share of the computed tokens.", *report.packing_advice)
    return table_from(report.packing, columns, "Packing", by_run=True, notes=notes)


def _attempts(report: Report) -> Table | None:
    return table_of(
        (_RUN, "attempt", "job", "state", "how it ended", Column("duration", numeric=True)),
        [
            (
                run.name,
                f"{number} of {len(run.attempt_list)}",
                each.job_id + (f", restart {each.restart}" if each.restart else ""),
                each.state.value,
                each.reason + ("; planned again since" if each.superseded else ""),
                each.seconds,
            )
            for run in report.runs
            if len(run.attempt_list) > 1 or any(attempt.state is not JobState.COMPLETED for attempt in run.attempt_list)
            for number, each in enumerate(run.attempt_list, 1)
        ],
        "Attempts",
        by_run=True,
    )


# ---- agreement of trainers -------------------------------------------------------------------------------------------


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
        of_both(run.final_val_loss, other.final_val_loss, lambda own, first: _nats(own.value - first.value)),
        of_both(run.seconds_per_step, other.seconds_per_step, _ratio),
        of_both(run.peak_memory, other.peak_memory, _ratio),
    )


def step_differences(losses: Sequence[LossPoint], others: Sequence[LossPoint]) -> list[float]:
    """Return the differences of the losses at the steps that both have, in order of the steps, in nats."""
    by_step = {point.step: point.loss for point in others}
    return [point.loss - by_step[point.step] for point in losses if point.step in by_step]


def _trainer(run: RunResult) -> str:
    return next(level.value for level in run.levels if level.factor == BACKEND)


def _nats(value: float) -> Quantity:
    return Quantity(value=value, unit="nats")


def _ratio(value: Quantity, other: Quantity) -> Measured:
    """Return the ratio of two figures of the same unit and kind."""
    if (value.unit, value.kind) != (other.unit, other.kind) or not other.value:
        return Missing(missing="figures of different units or kinds")
    return Quantity(value=value.value / other.value, unit="1")
