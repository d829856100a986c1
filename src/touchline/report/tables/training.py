"""Tables of trainings: losses, steps, speed, memory, durations, predictions, packing, attempts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from touchline.core.levels import BACKEND
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import JobState
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, provenance, table_of
from touchline.core.text import join_names
from touchline.core.units import plural
from touchline.experiment.runs import RunKind
from touchline.report.estimates import MEMORY, TRAINING
from touchline.report.facts import evaluation_seconds, generalization_gap, lowest
from touchline.report.formatting import is_at_least
from touchline.report.report import EstimateRow, PackingRow, Report, RunFacts
from touchline.results.run_result import LossPoint, RunResult

_NAMES = 20
_MANY = 60
"""Number of estimates above which those outside their interval come first."""
_NOT_REPORTED = Missing(missing="not reported")
_RUN = Column("run", code=True)
_Trained = tuple[RunResult, RunFacts]


def training_section(report: Report) -> Section:
    """Return losses, steps, speed and memory of the runs that train, and their packing."""
    trained = trained_runs(report)
    silent = [run.name for run, _ in trained if is_silent(run)]
    paragraphs = [] if trained else ["n/a (no run trains anything)"]
    if silent:
        paragraphs.append(f"n/a (nothing was measured yet): {join_names(silent, _NAMES)}.")
    spoken = [each for each in trained if not is_silent(each[0])]
    return Section(
        title="Training results",
        paragraphs=(*paragraphs, *_uncounted(report.packing)),
        tables=present(_losses(report, spoken), agreement_table(report.runs), _packing(report)),
        figures=("training",),
    )


def cost_section(report: Report) -> Section:
    """Return durations, predictions against measured values, and attempts."""
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table | None, ...] = (_durations(report),)
    if report.estimates and all(isinstance(row.measured, Missing) for row in report.estimates):
        paragraphs = (f"{plural(len(report.estimates), 'prediction')} in plan.json; nothing was measured yet.",)
    else:
        tables = (*tables, _by_quantity(report.estimates), _estimates(report))
    return Section(
        title="Cost and predictions",
        paragraphs=paragraphs,
        tables=present(*tables, _attempts(report)),
        figures=("estimates",),
    )


def trained_runs(report: Report) -> list[_Trained]:
    """Return the runs that train, with their facts."""
    return [
        (run, facts) for run, facts in zip(report.runs, report.facts, strict=True) if run.kind is RunKind.FINE_TUNED
    ]


def is_silent(run: RunResult) -> bool:
    """Return True if nothing was measured of a training."""
    figures = (run.final_train_loss, run.final_val_loss, run.train_seconds, run.tokens_per_second, run.peak_memory)
    return not run.steps_done and not run.attempt_list and all(isinstance(figure, Missing) for figure in figures)


def _losses(report: Report, trained: Sequence[_Trained]) -> Table | None:
    speeds = [facts.tokens_per_second_per_gpu for _, facts in trained]
    runs = [run for run, _ in trained]
    token = _shared(speeds, "token_unit")
    kind = _shared([run.peak_memory for run in runs], "kind")
    columns = (
        *(_RUN, Column("model"), Column("settings"), Column("epochs", numeric=True), Column("steps", numeric=True)),
        *(Column(label, numeric=True, unit="nats") for label in ("final train loss", "final val loss")),
        Column("gap", numeric=True, unit="nats", note="Final validation loss minus final training loss"),
        Column("lowest val loss", numeric=True),
        Column(
            f"{token + ' ' if token else ''}tokens/s per {report.device}",
            numeric=True,
            unit=_shared(speeds, "unit") or "",
            digits=3,
            kind=token is None,
        ),
        Column(f"peak memory{f' ({kind})' if kind else ''}", numeric=True, digits=3, kind=kind is None),
        Column("adapter", numeric=True, note="Size of the adapter weights"),
    )
    rows = [
        (
            *(run.name, run.model, facts.settings, _epochs(run), steps_value(run)),
            *(run.final_train_loss, run.final_val_loss, generalization_gap(run), _lowest(run)),
            *(facts.tokens_per_second_per_gpu, run.peak_memory, run.adapter_size),
        )
        for run, facts in trained
    ]
    legend = " ".join(_legend(runs, speeds))
    return table_of(columns, rows, "Losses, speed and memory", by_run=True, notes=(legend,))


def _shared(values: Iterable[Measured], attribute: str) -> str | None:
    """Return the attribute (`kind`, `token_unit`, `unit`) that all figures of a column share, for its heading."""
    found = {getattr(value, attribute) for value in values if not isinstance(value, Missing)}
    return str(found.pop()) if len(found) == 1 and None not in found else None


def _legend(runs: Sequence[RunResult], speeds: Sequence[Measured]) -> Iterator[str]:
    """Yield the definitions of the columns, as the figures themselves state them."""
    train = _methods([run.final_train_loss for run in runs])
    yield f"Losses are means over the label tokens, in nats. Train loss: {train or 'as logged'}."
    yield f"Val loss: {_methods([run.final_val_loss for run in runs], 2) or 'as logged'}."
    yield "Gap: generalization gap, the final validation loss minus the final training loss."
    ways = _methods(speeds)
    sums = dict.fromkeys(each.aggregation for each in speeds if isinstance(each, Quantity) and each.aggregation)
    how = [*(each for each in sums if each not in ways), *([ways] if ways else [])]
    yield f"Tokens/s: {', '.join(how) or 'as logged'}."
    memory = [run.peak_memory for run in runs]
    phases = dict.fromkeys(each.phase for each in memory if isinstance(each, Quantity) and each.phase)
    if phases:
        words = {"step": "while steps ran", "after_init": "after initialization", "eval": "during evaluation"}
        yield f"Peak memory: {', '.join(words[phase] for phase in phases)}."


def _methods(values: Sequence[Measured], most: int = 3) -> str:
    """Return the methods of figures. With many, only the first few."""
    ways = list(dict.fromkeys(each.method for each in values if isinstance(each, Quantity) and each.method))
    return "; ".join(ways[:most]) + (" ..." if len(ways) > most else "")


def _epochs(run: RunResult) -> Value:
    epochs = run.settings.get("epochs")
    return _NOT_REPORTED if epochs is None else str(epochs)


def steps_value(run: RunResult) -> Value:
    """Return `160 of 160`."""
    if run.steps_done is None and run.steps_planned is None:
        return _NOT_REPORTED
    done = "n/a (not reported)" if run.steps_done is None else f"{run.steps_done:,}"
    return Cell(done if run.steps_planned is None else f"{done} of {run.steps_planned:,}", run.steps_done)


def _lowest(run: RunResult) -> Value:
    best = lowest(run.validation_losses)
    return (
        Missing(missing="no validation") if best is None else Cell(f"{best.loss:.4g} (step {best.step:,})", best.loss)
    )


def _durations(report: Report) -> Table | None:
    is_gpu = report.device == "GPU"
    labels = ("training steps", "validation", "saving", "evaluations")
    hours = Column(f"{'GPU' if is_gpu else 'device'}-hours", key="hours", numeric=True, digits=3, unit="h")
    columns = (_RUN, *(Column(label, numeric=True) for label in labels), Column("all attempts"), hours)
    rows: list[tuple[Value, ...]] = [
        (
            *(run.name, run.train_seconds, run.validation_seconds, run.saving_seconds, evaluation_seconds(run)),
            plural(len(run.attempt_list), "attempt") if run.attempt_list else Missing(missing="none on record"),
            _hours(facts.device_hours),
        )
        for run, facts in trained_runs(report)
        if not is_silent(run)
    ]
    rows += [
        (run.name, None, None, None, evaluation_seconds(run), None, _hours(facts.device_hours))
        for run, facts in zip(report.runs, report.facts, strict=True)
        if run.kind is RunKind.CONTROL
    ]
    least = any(is_at_least(facts.device_hours) for facts in report.facts)
    legend = (
        "Wall-clock time, as m:ss or h:mm:ss. "
        f"{'GPU' if is_gpu else 'Device'}-hours: all attempts at the training{', times its GPUs' if is_gpu else ''}, "
        "start-up and lost work included, and the evaluations."
        f"{' At least: an attempt of unknown length is not counted.' if least else ''}"
    )
    return table_of(columns, rows, "Duration", by_run=True, notes=(legend,))


def _hours(value: Measured) -> Value:
    """Return device-hours; a lower bound says so."""
    if not isinstance(value, Quantity) or not is_at_least(value):
        return value
    return Cell(f"at least {value.value:.3g}", value.value, note=provenance(value))


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
    """Return the packing of each run's examples, and advice for the next plan."""
    columns = (
        *(_RUN, Column("packed")),
        Column("density (examples per sequence)", numeric=True, form=".2f"),
        Column("efficiency (%)", numeric=True, form=".1f", note="Non-padding share of the computed tokens"),
        Column("examples/s", numeric=True, form=",.3g"),
        Column("peak memory", digits=3, kind=True),
        Column("reason"),
    )
    if not any(map(_is_counted, report.packing)):
        return None
    rows = [
        (row.run, row.packed, row.density, row.efficiency, row.examples_per_second, row.peak_memory, row.reason)
        for row in report.packing
    ]
    notes = ("Efficiency: non-padding share of the computed tokens.", *report.packing_advice)
    return table_of(columns, rows, "Packing", by_run=True, notes=notes)


def _is_counted(row: PackingRow) -> bool:
    return any(isinstance(value, Quantity) for value in (row.density, row.efficiency, row.examples_per_second))


def _uncounted(rows: Sequence[PackingRow]) -> Iterator[str]:
    """Yield which runs were packed, if nothing else is known."""
    if not rows or any(map(_is_counted, rows)):
        return
    ways = {"yes": "Packed", "no": "Not packed"}
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.packed, []).append(row.run)
    sentences = [f"{ways.get(packed, packed)}: {join_names(runs)}." for packed, runs in names.items()]
    yield f"{' '.join(sentences)} No log reports packing density or efficiency."


def _attempts(report: Report) -> Table | None:
    """Return the attempts of the runs that were not completed by their first."""
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
