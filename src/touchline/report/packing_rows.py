"""Packing of each run's examples, and the advice for the next plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.report.formatting import join_names, relative
from touchline.report.report import PackingRow
from touchline.results.run_result import RunResult

LOW_EFFICIENCY = 80.0
"""Share in per cent below which padding costs more than a fifth of the computation."""


def packing_rows(plan: Plan | None, runs: Sequence[RunResult]) -> tuple[PackingRow, ...]:
    """Return a row for each run that trains, in order."""
    planned = {} if plan is None else {run.name: run for run in plan.runs}
    return tuple(_row(run, planned.get(run.name)) for run in runs if run.kind is RunKind.FINE_TUNED)


def _row(run: RunResult, planned: PlannedRun | None) -> PackingRow:
    packed = run.settings.get("packed")
    word = {True: "yes", False: "no"}.get(packed if isinstance(packed, bool) else None)  # type: ignore[arg-type]
    side = None
    if planned is not None and not isinstance(planned.packing, Missing) and word is not None:
        side = planned.packing.packed if word == "yes" else planned.packing.unpacked
    return PackingRow(
        run=run.name,
        packed=word or "n/a (not reported)",
        density=_or_planned(run.packing.density, None if side is None else side.density, "examples/row"),
        efficiency=_or_planned(run.packing.efficiency, None if side is None else side.efficiency, "%"),
        examples_per_second=run.examples_per_second,
        peak_memory=run.peak_memory,
        reason=(planned.packed_reason or "") if planned is not None else "",
    )


def _or_planned(measured: Measured, planned: float | None, unit: str) -> Measured:
    """Return the measured value, else the plan's value for the same batches with a note."""
    if isinstance(measured, Quantity) or planned is None:
        return measured
    return Quantity(value=planned, unit=unit, method="as the plan computed it")


def packing_advice(plan: Plan | None, runs: Sequence[RunResult], rows: Sequence[PackingRow]) -> tuple[str, ...]:
    """Return advice for the next plan: measured comparisons, avoidable padding, and the plan's own advice."""
    by_run = {run.name: run for run in runs}
    lines = [*_both_ways(rows, by_run), *_padding(rows)]
    if plan is not None:
        lines += [line for run in plan.runs if not isinstance(run.packing, Missing) for line in run.packing.advice]
    return tuple(dict.fromkeys(lines))


def _both_ways(rows: Sequence[PackingRow], runs: Mapping[str, RunResult]) -> Iterator[str]:
    """Yield comparisons of runs that differ in packing only."""
    alike: dict[tuple[object, ...], dict[str, PackingRow]] = {}
    for row in rows:
        run = runs[row.run]
        others = tuple(level for level in run.levels if level.factor != "train.packed")
        alike.setdefault((run.model, others, run.seed), {})[row.packed] = row
    for pair in alike.values():
        if not {"yes", "no"} <= pair.keys():
            continue
        yes, no = pair["yes"].examples_per_second, pair["no"].examples_per_second
        if isinstance(yes, Quantity) and isinstance(no, Quantity):
            yield (
                f"{pair['yes'].run} was packed and {pair['no'].run} was not: {yes.value:,.3g} against {no.value:,.3g} "
                f"examples/s, {relative(yes.value, no.value)} packed. One run each, on whatever else the machine did."
            )


def _padding(rows: Sequence[PackingRow]) -> Iterator[str]:
    wasteful = [
        row
        for row in rows
        if row.packed == "no" and isinstance(row.efficiency, Quantity) and row.efficiency.value < LOW_EFFICIENCY
    ]
    if not wasteful:
        return
    worst = min(row.efficiency.value for row in wasteful if isinstance(row.efficiency, Quantity))
    yield (
        f"{join_names([row.run for row in wasteful])}: not packed, and down to {worst:.0f}% of the computed positions "
        "held a token. Plan once with train.packed: true and compare examples/s."
    )
