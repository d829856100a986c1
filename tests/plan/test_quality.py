"""How near to the bound, and how honest the chance: on published instances, with a fixed number of tries."""

from __future__ import annotations

import heapq
from statistics import mean

import numpy as np
import pytest
from tests.plan.instances import SEEDS, chains

from touchline.plan.placement import search
from touchline.plan.placement.answer import place
from touchline.plan.placement.types import Cluster, PlaceJob

pytestmark = pytest.mark.planning


@pytest.mark.parametrize("gpus", [4, 8, 16, 64])
def test_a_hundred_jobs_are_within_two_percent_of_the_bound(gpus: int) -> None:
    ratios = []
    for seed in SEEDS[:3]:
        found = place(chains(100, gpus, seed), Cluster(gpus=gpus), deadline_minutes=None)
        ratios.append(found.makespan_minutes / found.lower_bound_minutes)
    assert mean(ratios) <= 1.02, ratios


def test_five_hundred_jobs_are_within_two_percent_of_the_bound() -> None:
    found = place(chains(500, 16, 0), Cluster(gpus=16), deadline_minutes=None)
    assert found.makespan_minutes / found.lower_bound_minutes <= 1.02


def test_the_number_of_tries_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is counted in starts of jobs, not in seconds."""
    seen = []
    original = search.makespan_of

    def counted(problem: object, *rest: object) -> float:
        seen.append(problem)
        return original(problem, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "makespan_of", counted)
    place(chains(100, 8, 3), Cluster(gpus=8), deadline_minutes=None)
    first = len(seen)
    place(chains(100, 8, 3), Cluster(gpus=8), deadline_minutes=None)
    assert len(seen) == 2 * first
    assert first * 100 <= search.STARTS + 2 * search.STARTS_KEEPING_PLACES + 3 * 6 * 100


def run_by_priority(jobs: dict[str, PlaceJob], order: list[str], gpus: int, minutes: dict[str, float]) -> float:
    """Whatever fits starts, the first in order first; written apart from what is tested."""
    free, now, running, ended = gpus, 0.0, [], set[str]()
    left = list(order)
    while left or running:
        for name in list(left):
            if jobs[name].gpus <= free and ended.issuperset(jobs[name].after):
                heapq.heappush(running, (now + minutes[name], name))
                free -= jobs[name].gpus
                left.remove(name)
        now, name = heapq.heappop(running)
        ended.add(name)
        free += jobs[name].gpus
    return now


@pytest.mark.slow
def test_the_chance_is_what_happens() -> None:
    """Of plans that are said to meet their deadline with some chance, about as many do."""
    generator = np.random.Generator(np.random.PCG64(11))
    stated, met = [], []
    for seed in range(45):
        gpus, count = (2, 4, 8)[seed % 3], (6, 12, 20)[seed // 3 % 3]
        spread = (0.15, 0.3, 0.5)[seed // 9 % 3]
        made = chains(count, gpus, 100 + seed, spread=spread)
        span = place(made, Cluster(gpus=gpus), deadline_minutes=None).makespan_minutes
        found = place(made, Cluster(gpus=gpus), deadline_minutes=span * float(generator.uniform(0.9, 1.35)))
        if found.kept_gpus is not None:
            continue
        jobs = {job.id: job for job in made}
        order = [slot.id for slot in sorted(found.schedule, key=lambda slot: slot.priority)]
        for _ in range(60):
            minutes = {
                name: job.minutes.value * float(np.exp(spread * generator.standard_normal()))
                for name, job in jobs.items()
            }
            stated.append(float(str(found.probability)))
            met.append(run_by_priority(jobs, order, gpus, minutes) <= (found.deadline_minutes or 0.0))
    told, true = np.array(stated), np.array(met, dtype=float)
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01)):
        inside = (told >= low) & (told < high)
        assert inside.sum() >= 80, (low, int(inside.sum()))
        assert abs(told[inside].mean() - true[inside].mean()) <= 0.1, (low, told[inside].mean(), true[inside].mean())


def test_intervals_hold_nine_of_ten_draws() -> None:
    from touchline.plan.placement.deadline import draw_ticks
    from touchline.plan.placement.problem import compile_problem
    from touchline.plan.placement.types import Minutes

    ends = [(60.0, 40.0, 120.0), (60.0, 59.0, 60.0), (60.0, 0.0, 90.0), (0.0, 0.0, 10.0), (60.0, None, None)]
    made = [
        PlaceJob(id=f"j{k}", minutes=Minutes(value=value, low=low, high=high))
        for k, (value, low, high) in enumerate(ends)
    ]
    problem = compile_problem(made, Cluster(gpus=1))
    drawn = np.array(draw_ticks(problem, 20_000, np.random.Generator(np.random.PCG64(3)), 0.0)) / 1e9
    for k, (value, low, high) in enumerate(ends):
        assert np.median(drawn[:, k]) == pytest.approx(value, abs=0.02 * max(value, 1))
        assert drawn[:, k].min() >= 0
        if low is not None and high is not None and low > 0:
            assert (drawn[:, k] < low - 1e-9).mean() == pytest.approx(0.05, abs=0.005)
            if high > value:
                assert (drawn[:, k] > high + 1e-9).mean() == pytest.approx(0.05, abs=0.005)
