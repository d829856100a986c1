"""Replay of the placement: past experiments' runs in the order that it finds, against the order of their file.

The order is found from the times that the plans predicted, and then runs with the times that the runs took, as on a
cluster: a run starts whenever a GPU is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from touchline.core.callbacks import ProgressCallback
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import seconds_to_minutes
from touchline.history.record import RunRecord
from touchline.plan.placement.bounds import lower_bounds
from touchline.plan.placement.problem import compile_problem, minutes_to_ticks, ticks_to_minutes
from touchline.plan.placement.schedule import dispatch, ranks_from_order
from touchline.plan.placement.search import find_schedules
from touchline.plan.placement.types import Cluster, Minutes, PlaceJob
from touchline.plan.replay.runs import TOO_LONG, Sorter, complete_runs, job_seconds, name_of, own_runs, ratio_of
from touchline.plan.replay.types import PlacedExperiment, PlacementReplay

_SEED = 0
"""Seed of the orders that are tried, that of `touchline place`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """Run with its predicted and its measured duration."""

    name: str
    gpus: int
    predicted_minutes: float
    took_minutes: float


def replay_placement(
    records: Sequence[RunRecord],
    *,
    gpus: Sequence[int],
    rng: Generator,
    sorter: Sorter,
    on_progress: ProgressCallback | None = None,
) -> PlacementReplay | Missing:
    """Replay the placement over all experiments with two or more runs.

    Args:
        records: current records of the history.
        gpus: numbers of GPUs to replay on.
        rng: where the bootstrap's chance comes from.
        sorter: counts the runs that are left out.
        on_progress: receives the number of schedules found and their total.
    """
    experiments = _experiments(records, sorter)
    wanted: list[tuple[str, list[_Job], int]] = []
    for name, jobs in experiments:
        # With a GPU for every run there is nothing to order.
        counts = [n for n in gpus if max(job.gpus for job in jobs) <= n < sum(job.gpus for job in jobs)]
        wanted += [(name, jobs, count) for count in counts]
        if counts:
            sorter.used += len(jobs)
        else:
            sorter.leave_out("no more runs in its experiment than GPUs", len(jobs))
    placed: list[PlacedExperiment] = []
    for number, (name, jobs, count) in enumerate(wanted):
        if on_progress is not None:
            on_progress(number, len(wanted))
        one = _placed(name, jobs, count)
        # Durations below the placement's resolution sum to nothing.
        placed += [one] if one.ordered_minutes > 0 else []
    if not placed:
        return Missing(missing="no past experiment of more runs than GPUs, with predicted and measured durations")
    return PlacementReplay(
        experiments=tuple(placed),
        saved_share={
            count: ratio_of(
                [each.ordered_minutes - each.placed_minutes for each in of_count],
                [each.ordered_minutes for each in of_count],
                [each.experiment for each in of_count],
                rng,
                "experiments",
            )
            for count in gpus
            if (of_count := [each for each in placed if each.gpus == count])
        },
    )


def _experiments(records: Sequence[RunRecord], sorter: Sorter) -> list[tuple[str, list[_Job]]]:
    """Return the jobs of each experiment in the order of its plan."""
    found: dict[str, list[tuple[tuple[bool, int, str], _Job]]] = {}
    for record in complete_runs(own_runs(records, sorter), sorter):
        took, predicted = job_seconds(record), record.predicted.train_seconds
        if isinstance(took, Missing):
            sorter.leave_out("its duration is not known")
        elif isinstance(predicted, Missing) or not 0 < predicted.value < TOO_LONG:
            sorter.leave_out("its plan predicted no duration")
        elif record.stage is not None:
            sorter.leave_out("a stage of a chain, which waits for another run")
        else:
            devices = record.machine.gpus
            job = _Job(
                name=name_of(record),
                gpus=max(int(devices.value), 1) if isinstance(devices, Quantity) else 1,
                predicted_minutes=seconds_to_minutes(predicted.value),
                took_minutes=seconds_to_minutes(took.value),
            )
            place = (record.position is None, record.position or 0, job.name)
            found.setdefault(record.experiment or "", []).append((place, job))
    ordered: list[tuple[str, list[_Job]]] = []
    for name, jobs in sorted(found.items()):
        # Two experiments of one name may have runs of one name.
        unique = {job.name: job for _, job in sorted(jobs, key=lambda each: each[0])}
        if len(unique) < 2:
            sorter.leave_out("the only run of its experiment", len(unique))
        else:
            ordered.append((name, list(unique.values())))
    return ordered


def _placed(experiment: str, jobs: Sequence[_Job], gpus: int) -> PlacedExperiment:
    cluster = Cluster(gpus=gpus)

    def problem_of(minutes: Sequence[float]) -> list[PlaceJob]:
        pairs = zip(jobs, minutes, strict=True)
        return [PlaceJob(id=job.name, gpus=job.gpus, minutes=Minutes(value=value)) for job, value in pairs]

    planned = compile_problem(problem_of([job.predicted_minutes for job in jobs]), cluster)
    actual = compile_problem(problem_of([job.took_minutes for job in jobs]), cluster)
    best = find_schedules(planned, minutes_to_ticks(lower_bounds(planned)[0].minutes), _SEED)[0]
    number = {job.id: place for place, job in enumerate(actual.jobs)}
    in_file = ranks_from_order([number[job.name] for job in jobs])
    ordered = dispatch(actual, in_file, actual.ticks, None).makespan
    placed = dispatch(actual, ranks_from_order(best.order), actual.ticks, best.kept).makespan
    return PlacedExperiment(
        experiment=experiment,
        runs=len(jobs),
        gpus=gpus,
        ordered_minutes=ticks_to_minutes(ordered),
        placed_minutes=ticks_to_minutes(placed),
        bound_minutes=min(lower_bounds(actual)[0].minutes, ticks_to_minutes(min(ordered, placed))),
    )
