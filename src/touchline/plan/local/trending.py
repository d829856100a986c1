"""Trends of the history on this disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.callbacks import ProgressCallback
from touchline.core.quantity import Missing
from touchline.data.machine import machine_here
from touchline.data.user_config import UserConfig
from touchline.estimate.calibration import score_step
from touchline.estimate.history_points import read_or_missing, to_time_point
from touchline.estimate.local.calibration import machine_of_key, planned_estimates
from touchline.estimate.local.past_runs import shapes_of
from touchline.estimate.time import seconds_per_step
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.plan.local.replaying import current_records
from touchline.plan.trends import StackEstimate, Trends, find_trends


def history_trends(settings: UserConfig, on_progress: ProgressCallback | None = None) -> Trends:
    """Return the trends of a history.

    Args:
        settings: where the history and the models are.
        on_progress: receives the number of runs done and their total.

    Raises:
        InputError: the history is no folder.
    """
    records = current_records(settings, on_progress)
    return find_trends(records, [*_left_out(records, settings, on_progress), *_planned(records)])


def _left_out(
    records: Sequence[RunRecord], settings: UserConfig, on_progress: ProgressCallback | None
) -> Iterator[StackEstimate]:
    """Yield the estimate of each run's step from all other runs of its machine."""
    shape_of, here = shapes_of(settings), machine_here(1)
    found = [read_or_missing(to_time_point, record, shape_of) for record in records]
    points = [point for point in found if not isinstance(point, Missing)]
    for number, point in enumerate(points):
        if on_progress is not None:
            on_progress(number, len(points))
        machine = machine_of_key(point.machine, point.setup.base_dtype, here)
        others = [other for other in points if other is not point and other.machine == point.machine]
        answer = seconds_per_step(point.setup, point.work, machine=machine, points=others)
        if not isinstance(answer, Missing):
            scored = score_step(point, answer.estimate)
            yield StackEstimate(trainer=point.setup.backend, machine=point.machine, scored=scored)


def _planned(records: Sequence[RunRecord]) -> Iterator[StackEstimate]:
    """Yield the predictions that the plans made."""
    for record in records:
        trainer, machine = record.stack.trainer, record.machine.key
        if isinstance(trainer, SourcedText) and machine is not None:
            for scored in planned_estimates(record):
                yield StackEstimate(trainer=trainer.value, machine=machine, scored=scored)
