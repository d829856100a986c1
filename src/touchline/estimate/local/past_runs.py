"""Past runs as evidence for estimates: records of the history as measured points."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.errors import HostError, InputError
from touchline.core.estimate import PastRunGroup
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.shapes import load_shape
from touchline.data.user_config import UserConfig
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.evidence_used import BOTH, group_of
from touchline.estimate.history_points import PastRun, collect_points, said_word
from touchline.estimate.points import TimePoint
from touchline.history.history import Broken, read_record, record_path
from touchline.history.index import HistoryRow, load_index
from touchline.history.record import RunRecord
from touchline.history.run_view import agree

MOST_RECORDS = 512
"""Limit on records read for a plan, the models' own first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRuns:
    """Usable measurements of the history."""

    time: tuple[TimePoint, ...] = ()
    memory: tuple[MeasuredPoint, ...] = ()
    runs: tuple[PastRun, ...] = ()
    """All records that were read, with their points or reasons."""
    others: tuple[PastRunGroup, ...] = ()
    """Records that were not read, with the reasons."""

    @property
    def refused(self) -> tuple[tuple[str, Missing], ...]:
        """Return the records without any point, with the reason for time."""
        return tuple(
            (run.name, run.time)
            for run in self.runs
            if isinstance(run.time, Missing) and isinstance(run.memory, Missing)
        )


def past_runs(
    settings: UserConfig,
    trainers: Collection[str],
    models: Collection[str],
    *,
    counts: Callable[[HistoryRow], bool] = lambda row: True,
) -> PastRuns:
    """Return the points of a history that are evidence for these trainers.

    Args:
        models: names of the models in question; their records are looked at first.
        counts: whether a record is evidence.
    """
    try:
        index = load_index(settings.history_dir)
    except (InputError, HostError):
        # A history that cannot be read teaches nothing; `touchline history list` says why.
        return PastRuns()
    asked = [row for row in index.rows() if counts(row)]
    rows = [row for row in asked if said_word(row.trainer) in trainers and _measured(row)]
    rows.sort(key=lambda row: (not _is_of(row, models), row.name, row.id))
    read = [read_record(record_path(settings.history_dir, row.id)) for row in rows[:MOST_RECORDS]]
    found = points_of([record for record in read if not isinstance(record, Broken)], settings)
    others: dict[str, list[str]] = {}
    broken = [*index.broken, *(record for record in read if isinstance(record, Broken))]
    if broken:
        others["corrupt (see touchline history list)"] = [each.path.name for each in broken]
    for row in asked:
        trainer = said_word(row.trainer)
        if trainer not in trainers:
            others.setdefault(f"of the trainer {trainer}" if trainer else "of an unknown trainer", []).append(row.name)
        elif not _measured(row):
            others.setdefault("no time and no memory in the log", []).append(row.name)
    if rows[MOST_RECORDS:]:
        others[f"beyond the limit of {MOST_RECORDS} records"] = [row.name for row in rows[MOST_RECORDS:]]
    return replace(found, others=tuple(group_of(names, reason, BOTH) for reason, names in others.items()))


def points_of(records: list[RunRecord], settings: UserConfig) -> PastRuns:
    """Return the points of records."""
    runs = collect_points(records, shapes_of(settings))
    return PastRuns(
        time=tuple(run.time for run in runs if not isinstance(run.time, Missing)),
        memory=tuple(point for run in runs if not isinstance(run.memory, Missing) for point in run.memory),
        runs=runs,
    )


def shapes_of(settings: UserConfig) -> Callable[[str], ModelShape | Missing]:
    """Return a function that gives the dimensions of a model by its name, each looked up once."""
    return functools.cache(functools.partial(_shape, models_dir=settings.models_dir))


def _shape(name: str, models_dir: Path) -> ModelShape | Missing:
    try:
        return load_shape(name, models_dir)
    except InputError as fault:
        return Missing(missing=fault.message)


def _is_of(row: HistoryRow, models: Collection[str]) -> bool:
    """Return True if a record is of one of these models; a trainer's word for all of a size is of each of them."""
    name = said_word(row.model)
    return name is not None and any(agree("model", model, name) for model in models)


def _measured(row: HistoryRow) -> bool:
    return not (isinstance(row.seconds_per_step, Missing) and isinstance(row.peak_memory, Missing))
