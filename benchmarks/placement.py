"""Makespan over the lower bound, and seconds, on published instances; and whether a stated chance is what happens.

    python benchmarks/placement.py [--jobs 20 100 500] [--gpus 4 8 16 64] [--seeds 5] [--skip-calibration] [--json]

Chains of 1 to 4 stages, lognormal durations (median 60 minutes, 5 to 720), 1/2/4/8 GPUs at 50/20/15/15 %; see
`tests/plan/instances.py`. Beside ours: plain longest-job-first, and CP-SAT where ortools is installed, with our
schedule's makespan as its horizon and 5 s. Seconds are processor time of the whole answer, chance included, the middle
of the seeds and the worst.

Calibration: true durations are drawn from the intervals, the jobs are run by priority by a program of its own, and what
was said is held against what happened, in five bins.

Exits with 1 when, at 100 jobs or more, a cell's mean is more than 2 % over the bound or its middle takes more than a
second, or when a bin of the calibration is off by more than 10 points.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.plan.instances import GPUS, SEEDS, SIZES, chains  # noqa: E402 (the path is set above)

from touchline.plan.placement.answer import place  # noqa: E402
from touchline.plan.placement.types import Cluster, PlaceJob, Placement  # noqa: E402

LIMIT, LIMIT_S, LARGE = 1.02, 1.0, 100
POINTS = 0.10
CP_SECONDS = 5.0
BINS = ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One size of instance, over the seeds."""

    jobs: int
    gpus: int
    ours: float
    ours_worst: float
    longest_first: float
    cp_sat: float | None
    seconds: float
    seconds_worst: float

    @property
    def fails(self) -> bool:
        return self.jobs >= LARGE and (self.ours > LIMIT or self.seconds > LIMIT_S)


def run_by_priority(jobs: Sequence[PlaceJob], order: Sequence[str], gpus: int, minutes: dict[str, float]) -> float:
    """Whatever fits starts, the first in order first; nothing of touchline's own scheduling is used."""
    by_id = {job.id: job for job in jobs}
    free, now = gpus, 0.0
    running: list[tuple[float, str]] = []
    ended: set[str] = set()
    left = list(order)
    while left or running:
        for name in list(left):
            if by_id[name].gpus <= free and ended.issuperset(by_id[name].after):
                heapq.heappush(running, (now + minutes[name], name))
                free -= by_id[name].gpus
                left.remove(name)
        now, name = heapq.heappop(running)
        ended.add(name)
        free += by_id[name].gpus
    return now


def longest_first(jobs: Sequence[PlaceJob], gpus: int) -> float:
    """Plain LPT: what most people would write."""
    order = [job.id for job in sorted(jobs, key=lambda job: (-job.minutes.value, job.id))]
    return run_by_priority(jobs, order, gpus, {job.id: job.minutes.value for job in jobs})


def cp_sat(jobs: Sequence[PlaceJob], gpus: int, horizon: float) -> float | None:
    """What CP-SAT finds in a few seconds; None where it is not installed or finds nothing."""
    if importlib.util.find_spec("ortools") is None:
        return None
    from ortools.sat.python import cp_model  # type: ignore[import-not-found]

    model = cp_model.CpModel()
    end = int(horizon * 60) + 1
    spans, ends = [], {}
    for job in jobs:
        length = round(job.minutes.value * 60)
        start, stop = model.new_int_var(0, end, ""), model.new_int_var(0, end, "")
        spans.append(model.new_interval_var(start, length, stop, ""))
        ends[job.id] = stop
        for parent in job.after:
            model.add(start >= ends[parent])
    model.add_cumulative(spans, [job.gpus for job in jobs], gpus)
    makespan = model.new_int_var(0, end, "")
    model.add_max_equality(makespan, list(ends.values()))
    model.minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = CP_SECONDS
    solver.parameters.num_workers = 2
    found = solver.solve(model)
    return solver.objective_value / 60 if found in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None


def measure(jobs: int, gpus: int, seeds: Sequence[int]) -> Cell:
    """All seeds of one size."""
    ours, plain, exact, seconds = [], [], [], []
    for seed in seeds:
        made = chains(jobs, gpus, seed, spread=0.3)
        # The deadline in the middle of what may happen costs most.
        middle = place(made, Cluster(gpus=gpus), deadline_minutes=None)
        start = time.process_time()
        place(made, Cluster(gpus=gpus), deadline_minutes=1.05 * middle.makespan_minutes)
        seconds.append(time.process_time() - start)
        bound = middle.lower_bound_minutes
        ours.append(middle.makespan_minutes / bound)
        plain.append(longest_first(made, gpus) / bound)
        found = cp_sat(made, gpus, middle.makespan_minutes * 2)
        exact += [] if found is None else [found / bound]
    return Cell(
        jobs=jobs,
        gpus=gpus,
        ours=statistics.mean(ours),
        ours_worst=max(ours),
        longest_first=statistics.mean(plain),
        cp_sat=statistics.mean(exact) if exact else None,
        seconds=statistics.median(seconds),
        seconds_worst=max(seconds),
    )


def calibrate(instances: int, runs: int) -> list[tuple[float, float, int]]:
    """For each bin: the mean chance that was stated, how often it came true, and over how many runs."""
    generator = np.random.Generator(np.random.PCG64(5))
    told: list[float] = []
    met: list[bool] = []
    for number in range(instances):
        gpus, count = (2, 4, 8, 16)[number % 4], (8, 15, 30, 60)[number // 4 % 4]
        spread = (0.15, 0.3, 0.5)[number // 16 % 3]
        made = chains(count, gpus, 1000 + number, spread=spread)
        span = place(made, Cluster(gpus=gpus), deadline_minutes=None).makespan_minutes
        deadline = span * float(generator.uniform(0.9, 1.35))
        found = place(made, Cluster(gpus=gpus), deadline_minutes=deadline)
        # Only dispatching by what fits has a second program here.
        if found.kept_gpus is not None:
            continue
        order = [slot.id for slot in sorted(found.schedule, key=lambda slot: slot.priority)]
        for _ in range(runs):
            noise = np.exp(spread * generator.standard_normal(count))
            minutes = {job.id: job.minutes.value * float(factor) for job, factor in zip(made, noise, strict=True)}
            told.append(chance_of(found))
            met.append(run_by_priority(made, order, gpus, minutes) <= deadline)
    rows = []
    for low, high in BINS:
        inside = [k for k, chance in enumerate(told) if low <= chance < high]
        if inside:
            said = statistics.mean(told[k] for k in inside)
            rows.append((said, statistics.mean(met[k] for k in inside), len(inside)))
    return rows


def chance_of(found: Placement) -> float:
    assert isinstance(found.probability, float)
    return found.probability


def main() -> int:
    """Measure, print, and tell by the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--gpus", type=int, nargs="+", default=list(GPUS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--skip-calibration", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    cells = [measure(jobs, gpus, range(chosen.seeds)) for jobs in chosen.jobs for gpus in chosen.gpus]
    bins = [] if chosen.skip_calibration else calibrate(instances=96, runs=40)
    failed = [cell for cell in cells if cell.fails]
    off = [row for row in bins if abs(row[0] - row[1]) > POINTS]
    if chosen.json:
        print(json.dumps({"cells": [asdict(cell) for cell in cells], "calibration": bins}, indent=2))
    else:
        print("makespan / lower bound: means over the seeds")
        print(f"{'jobs':>5} {'GPUs':>5} {'ours':>7} {'worst':>7} {'LPT':>7} {'CP-SAT':>7} {'s':>6} {'worst s':>8}")
        for cell in cells:
            other = "-" if cell.cp_sat is None else f"{cell.cp_sat:.4f}"
            print(
                f"{cell.jobs:>5} {cell.gpus:>5} {cell.ours:>7.4f} {cell.ours_worst:>7.4f} {cell.longest_first:>7.4f} "
                f"{other:>7} {cell.seconds:>6.2f} {cell.seconds_worst:>8.2f}{'  FAILS' if cell.fails else ''}"
            )
        if all(cell.cp_sat is None for cell in cells):
            print("CP-SAT: ortools is not installed (pip install ortools)")
        for said, true, count in bins:
            print(f"chance stated {said:.2f}, met {true:.2f} ({count} runs)")
    return 1 if failed or off else 0


if __name__ == "__main__":
    sys.exit(main())
