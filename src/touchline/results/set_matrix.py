"""Scores of conditions on test sets that have names: the matrix of training sets and test sets.

A cell is the mean over training seeds, with Student's interval over the seeds' means. It describes these items, and
makes no claim: claims are contrasts, which are tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath
from statistics import fmean, stdev

from touchline.core.levels import SEEDS
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Cell, Column, Table, Value, present, table_of
from touchline.core.units import Scale, between, plural
from touchline.experiment.data_config import TRAINING_KEYS
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.run_result import NOT_EVALUATED, RunResult, SetMatrix, SetRow
from touchline.results.scored import scale_of_runs
from touchline.statistics.closed_forms import t_quantile

TRAINING_SET = TRAINING_KEYS[0]
"""Factor whose levels are training sets; its validation file goes with it, and is no condition of its own."""
_COVERAGE = 0.95
_NOT_ASKED = Missing(missing="not a test set of this run")
_UNTRAINED = {ControlKind.BASE: "none (base model)", ControlKind.NO_OP: "none (no-op adapter)"}


def set_matrix(results: Sequence[RunResult]) -> SetMatrix | None:
    """Return the means of every condition on every test set; None if test sets have no names.

    Conditions of other factors are rows of their own: nothing is averaged over them.
    """
    sets = tuple(dict.fromkeys(name for result in results for name in result.set_scores))
    if not sets:
        return None
    factors = dict.fromkeys(level.factor for result in results for level in result.levels)
    factor = TRAINING_SET if TRAINING_SET in factors else None
    held = (SEEDS, "models", *(TRAINING_KEYS if factor else ()))
    groups: dict[tuple[object, ...], list[RunResult]] = {}
    for result in results:
        condition = tuple(level for level in result.levels if level.factor not in held)
        trained_on = _training_set(result, factor)
        key = (result.control is not None or result.kind is RunKind.CONTROL, trained_on, result.model, condition)
        groups.setdefault((*key, result.control), []).append(result)
    order = {name: place for place, name in enumerate(dict.fromkeys(str(key[1]) for key in groups))}
    rows = [
        SetRow(
            training_set=_training_set(runs[0], factor),
            condition=tuple(level for level in runs[0].levels if level.factor not in held),
            model=runs[0].model,
            control=runs[0].control,
            runs=tuple(run.name for run in runs),
            scores={name: mean_over_seeds([(run.seed, run.set_scores.get(name)) for run in runs]) for name in sets},
        )
        for _, runs in sorted(groups.items(), key=lambda item: (bool(item[0][0]), order[str(item[0][1])]))
    ]
    return SetMatrix(
        factor=factor,
        test_sets=sets,
        items=_items(results),
        metric=next((run.metric for run in results if run.metric is not None), "score"),
        share=scale_of_runs(results).share,
        rows=tuple(rows),
    )


def _training_set(result: RunResult, factor: str | None) -> str:
    if result.kind is RunKind.CONTROL:
        return _UNTRAINED.get(result.control or ControlKind.BASE, "none")
    level = next((level.value for level in result.levels if level.factor == factor), None)
    name = PurePath(result.dataset).name if level is None else level
    return f"{name}, answers shuffled" if result.control is ControlKind.SHUFFLED else name


def _items(results: Iterable[RunResult]) -> dict[str, int]:
    found: dict[str, int] = {}
    for result in results:
        for record in (*result.evaluations, *result.other_evaluations):
            if record.test_set is not None:
                items = len({sample.id for sample in record.samples})
                found[record.test_set] = min(found.get(record.test_set, items), items)
    return found


def mean_over_seeds(scores: Sequence[tuple[int, Measured | None]]) -> Measured:
    """Return the mean over seeds with its interval; of one seed the score with its interval over items."""
    known = [(seed, score) for seed, score in scores if isinstance(score, Quantity)]
    if not known:
        return NOT_EVALUATED
    left = len(scores) - len(known)
    without = f", {plural(left, 'seed')} not evaluated" if left else ""
    if len(known) == 1:
        ((_, only),) = known
        return replace(only, method=f"one seed, interval over items: {only.method}{without}")
    values = [score.value for _, score in known]
    mean, spread = fmean(values), stdev(values)
    of_each = ", ".join(f"{seed}: {value:.6g}" for (seed, _), value in zip(known, values, strict=True))
    method = f"{len(values)} seeds ({of_each}){without}"
    if spread <= 1e-12 * max(1.0, *map(abs, values)):
        return Quantity(
            value=mean, unit="1", aggregation="mean", method=f"{method}, no interval because they do not differ"
        )
    arm = t_quantile(0.5 + _COVERAGE / 2, len(values) - 1) * spread / math.sqrt(len(values))
    return Quantity(
        value=mean,
        unit="1",
        low=mean - arm,
        high=mean + arm,
        coverage=_COVERAGE,
        aggregation="mean",
        method=f"Student's t over {method}",
    )


def set_tables(results: Sequence[RunResult], matrix: SetMatrix | None) -> tuple[Table, ...]:
    """Return the scores of every run by test set, and the matrix. Empty if test sets have no names."""
    return () if matrix is None else present(sets_table(results, matrix), matrix_table(matrix))


def matrix_table(matrix: SetMatrix) -> Table | None:
    """Return the matrix; None if no condition has two seeds and all have one training set: runs say as much."""
    if matrix.factor is None and all(len(row.runs) < 2 for row in matrix.rows):
        return None
    models = len({row.model for row in matrix.rows}) > 1
    others = any(row.condition for row in matrix.rows)
    columns = (
        Column("training set"),
        *([Column("model")] if models else []),
        *([Column("condition")] if others else []),
        Column("seeds", numeric=True),
        *_set_columns(matrix),
    )
    rows = [
        (
            row.training_set,
            *([row.model] if models else []),
            *([", ".join(f"{level.factor} {level.value}" for level in row.condition)] if others else []),
            len(row.runs) if row.control is None and row.training_set not in _UNTRAINED.values() else None,
            *(mean_cell(row.scores[name], share=matrix.share) for name in matrix.test_sets),
        )
        for row in matrix.rows
    ]
    title = f"{'Training set' if matrix.factor else 'Condition'} x test set: {matrix.metric}"
    return table_of(columns, rows, title, notes=(_legend(matrix),))


def sets_table(results: Sequence[RunResult], matrix: SetMatrix) -> Table | None:
    """Return the scores of every run on every test set side by side; None with one set."""
    if len(matrix.test_sets) < 2:
        return None
    columns = (Column("run", code=True), *_set_columns(matrix))
    rows = [
        (run.name, *(mean_cell(run.set_scores.get(name, _NOT_ASKED), share=matrix.share) for name in matrix.test_sets))
        for run in results
    ]
    methods = dict.fromkeys(
        score.method.rpartition(", ")[0]
        for run in results
        for score in run.set_scores.values()
        if isinstance(score, Quantity) and score.method
    )
    note = f"95% interval over the items of the set: {', '.join(methods)}. " if methods else ""
    first = matrix.test_sets[0]
    return table_of(
        columns,
        rows,
        f"Scores by test set: {matrix.metric}",
        by_run=True,
        notes=(
            f"{note}n: items that every run answered. Claims are made on {first}, which is named first. The p "
            "values of the other sets form a separate family.",
        ),
    )


def _set_columns(matrix: SetMatrix) -> list[Column]:
    return [
        Column(f"{name}, n = {matrix.items[name]:,}" if name in matrix.items else name, key=f"set {name}", numeric=True)
        for name in matrix.test_sets
    ]


def mean_cell(score: Measured, *, share: bool) -> Value:
    """Return a score with its interval, as a percentage if it is a share."""
    if isinstance(score, Missing):
        return score
    scale = Scale(share=share)
    # A share has no end beyond 0 or 1.
    interval = between(score.low, score.high, lambda end: scale.end(min(max(end, 0.0), 1.0) if share else end))
    return Cell(scale.value(score.value), score.value, interval=interval.strip(), note=score.method or "")


def _legend(matrix: SetMatrix) -> str:
    several = max(len(row.runs) for row in matrix.rows) > 1
    seeds = (
        "Cells: mean over the training seeds, with Student's 95% interval over the seeds' means on these items, "
        "limited to 0 to 100% for shares. There is no interval if seeds do not differ. A row with one seed has "
        "an interval over items and describes that checkpoint."
        if several
        else "One seed: each cell describes one checkpoint with its interval over items, not the setting."
    )
    return f"{seeds} The matrix makes no claim: contrasts are tested in their own tables."
