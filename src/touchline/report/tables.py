"""Tables that RESULTS.md and report.html share: estimates, packing, storage, attempts, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import JobState
from touchline.plan.settings import HEADER, setting_cells, varying_table
from touchline.report.estimates import MEMORY, TRAINING
from touchline.report.report import EstimateRow, Report
from touchline.report.table import Column, Table, Verdict, table_of
from touchline.results.run_result import RunResult

_RUN = Column("run", code=True)
_NOT_TOLD = Missing(missing="not reported")


def estimates(rows: Sequence[EstimateRow], runs: Mapping[str, RunResult]) -> Table | None:
    """Return predicted and measured values, and whether they fell inside the interval."""
    columns = (
        _RUN,
        Column("what"),
        Column("planned", numeric=True, digits=3, interval=True),
        Column("measured", numeric=True, digits=3),
        Column("held", title="Whether the measured value is inside the interval"),
    )
    return table_of(
        columns, [(row.run, row.quantity, row.predicted, row.measured, _held(row, runs[row.run])) for row in rows]
    )


def _held(row: EstimateRow, run: RunResult) -> Verdict:
    if row.inside is not None:
        return Verdict("yes" if row.inside else "no", row.inside)
    if isinstance(row.predicted, Missing):
        return Verdict("- (no estimate)")
    if isinstance(row.measured, Missing):
        return Verdict("- (not measured)")
    if row.quantity == TRAINING:
        several = len(run.attempt_list) > 1
        return Verdict("- (several attempts)" if several else "- (not complete, or not told by its jobs)")
    return Verdict("- (another kind of memory)" if row.quantity == MEMORY else "- (not of one kind)")


def packing(report: Report) -> Table | None:
    """Return the packing of each run's examples."""
    columns = (
        _RUN,
        Column("packed"),
        Column("density (examples/row)", numeric=True, form=".2f"),
        Column("efficiency (%)", numeric=True, form=".1f", title="Share of the computed positions that hold a token"),
        Column("examples/s", numeric=True, form=",.3g"),
        Column("peak memory", digits=3, kind=True),
        Column("why"),
    )
    return table_of(
        columns,
        [
            (row.run, row.packed, row.density, row.efficiency, row.examples_per_second, row.peak_memory, row.reason)
            for row in report.packing
        ],
    )


def _size(size_bytes: int) -> Measured:
    return Quantity(value=size_bytes, unit="B")


def storage(report: Report) -> Table | None:
    """Return the contents of each run's folder, and its size in other forms."""
    columns = (
        _RUN,
        Column("checkpoints", numeric=True),
        Column("folder", numeric=True),
        Column("checkpoints' size", numeric=True),
        Column("as full models", numeric=True, digits=3, interval=True),
        Column("as adapters only", numeric=True, digits=3, interval=True),
        Column("planned", numeric=True, digits=3, interval=True),
    )
    return table_of(
        columns,
        [
            (
                *(each.run, each.checkpoints, _size(each.total_bytes), _size(each.checkpoint_bytes)),
                *(each.full_model_bytes, each.adapter_only_bytes, each.forecast),
            )
            for each in report.verification.storage.runs
        ],
    )


def sizes(report: Report) -> Table | None:
    """Return the sizes of base models, and of adapters by rank."""
    found = report.verification.storage
    columns = (
        Column("what"),
        Column("base model"),
        Column("rank", numeric=True),
        Column("dtype"),
        Column("size of the weights", numeric=True, interval=True),
    )
    return table_of(
        columns,
        [
            *(("base model", name, None, None, size) for name, size in found.bases.items()),
            *(
                (
                    *("adapter", each.model, _NOT_TOLD if each.rank is None else each.rank),
                    *(each.dtype or _NOT_TOLD, _size(each.size_bytes)),
                )
                for each in found.adapters
            ),
        ],
        by_run=False,
    )


def deletable(report: Report) -> Table | None:
    """Return the files that are safe to delete."""
    columns = (_RUN, Column("what", code=True), Column("size", numeric=True), Column("why nothing is lost"))
    found = report.verification.storage.deletable
    return table_of(columns, [(each.run, each.path, _size(each.size_bytes), each.why) for each in found])


def attempts(report: Report) -> Table | None:
    """Return the attempts of the runs that were not completed by their first."""
    columns = (
        _RUN,
        Column("attempt"),
        Column("job"),
        Column("state"),
        Column("how it ended"),
        Column("lasted", numeric=True),
    )
    return table_of(
        columns,
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
            if len(run.attempt_list) > 1 or any(each.state is not JobState.COMPLETED for each in run.attempt_list)
            for number, each in enumerate(run.attempt_list, 1)
        ],
    )


def settings(report: Report) -> Table | None:
    """Return every setting, given or default."""
    return table_of(map(Column, HEADER), setting_cells(report.settings), by_run=False)


def varying(report: Report) -> Table | None:
    """Return the settings that vary, by run."""
    header, rows = varying_table(report.settings, [run.name for run in report.runs])
    return table_of((_RUN, *map(Column, header[1:])), rows)
