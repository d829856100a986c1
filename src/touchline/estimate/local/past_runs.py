"""Past runs as evidence for estimates: records of the history as measured points."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from touchline.core.errors import HostError, InputError
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.shapes import load_shape
from touchline.data.user_config import UserConfig
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.history_points import collect_memory_points, collect_time_points
from touchline.estimate.points import TimePoint
from touchline.history.history import Broken, read_record, record_path
from touchline.history.index import HistoryRow, load_index
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord

MOST_RECORDS = 512
"""Limit on records read for a plan, the models' own first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRuns:
    """Usable measurements of the history."""

    time: tuple[TimePoint, ...] = ()
    """Points of time."""
    memory: tuple[MeasuredPoint, ...] = ()
    """Points of memory."""
    refused: tuple[tuple[str, Missing], ...] = ()
    """Records of these trainers without any point, with the reason for time."""


def past_runs(
    settings: UserConfig,
    trainers: Collection[str],
    models: Collection[str],
    *,
    counts: Callable[[HistoryRow], bool] = lambda row: True,
) -> PastRuns:
    """Return the points of a history that are evidence for these trainers.

    Args:
        settings: where the history and the models are.
        trainers: the trainers in question.
        models: names of the models in question; their records are looked at first.
        counts: whether a record is evidence.
    """
    try:
        index = load_index(settings.history_dir)
    except (InputError, HostError):
        # A history that cannot be read teaches nothing; `touchline history list` says why.
        return PastRuns()
    rows = [row for row in index.rows() if _says(row.trainer) in trainers and _measured(row) and counts(row)]
    rows.sort(key=lambda row: (_says(row.model) not in models, row.name, row.id))
    found = (read_record(record_path(settings.history_dir, row.id)) for row in rows[:MOST_RECORDS])
    return points_of([record for record in found if not isinstance(record, Broken)], settings)


def points_of(records: list[RunRecord], settings: UserConfig) -> PastRuns:
    """Return the points of records."""
    shape_of = shapes_of(settings)
    time, refused = collect_time_points(records, shape_of)
    memory, no_memory = collect_memory_points(records, shape_of)
    neither = {name for name, _ in no_memory}
    return PastRuns(time=time, memory=memory, refused=tuple(each for each in refused if each[0] in neither))


def shapes_of(settings: UserConfig) -> Callable[[str], ModelShape | Missing]:
    """Return a function that gives the dimensions of a model by its name, each looked up once."""
    return functools.cache(functools.partial(_shape, models_dir=settings.models_dir))


def _shape(name: str, models_dir: Path) -> ModelShape | Missing:
    try:
        return load_shape(name, models_dir)
    except InputError as fault:
        return Missing(missing=fault.message)


def _says(said: SourcedText | Missing) -> str | None:
    return said.value if isinstance(said, SourcedText) else None


def _measured(row: HistoryRow) -> bool:
    return not (isinstance(row.seconds_per_step, Missing) and isinstance(row.peak_memory, Missing))
