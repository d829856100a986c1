"""What holds for every placement, whatever the jobs."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plan.brute import broken_rules
from tests.plan.instances import chains

from touchline.plan.placement.answer import place
from touchline.plan.placement.deadline import draw_ticks
from touchline.plan.placement.problem import compile_problem
from touchline.plan.placement.types import Cluster, DeadlineVerdict, Minutes, PlaceJob

pytestmark = pytest.mark.planning


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[PlaceJob], Cluster]:
    gpus = draw(st.integers(1, 12))
    per_node = draw(st.none() | st.integers(1, gpus))
    cpus = draw(st.none() | st.integers(1, 32))
    memory = draw(st.none() | st.floats(1, 256))
    room = min(per_node or gpus, gpus)
    made = []
    for number in range(draw(st.integers(1, 14))):
        value = draw(st.floats(0, 1000))
        pin = draw(st.none() | st.integers(0, gpus - 1))
        # The last node may be smaller than the others.
        here = room if pin is None else min(room, gpus - pin // room * room)
        after = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        made.append(
            PlaceJob(
                id=f"{draw(st.sampled_from('abc'))}{number}",
                after=tuple(made[i].id for i in after),
                gpus=draw(st.integers(0 if pin is None else 1, here)),
                cpus=draw(st.integers(0, cpus or 64)),
                memory_gb=draw(st.floats(0, memory or 512)),
                minutes=Minutes(
                    value=value,
                    low=draw(st.none() | st.floats(0, value)),
                    high=draw(st.none() | st.floats(value, 5000)),
                ),
                pin=pin,
            )
        )
    return made, Cluster(gpus=gpus, gpus_per_node=per_node, cpus=cpus, memory_gb=memory)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problems(), st.none() | st.floats(0.5, 20000), st.randoms(use_true_random=False))
def test_every_placement_keeps_the_rules(problem: tuple[list[PlaceJob], Cluster], deadline: float | None, rng) -> None:  # type: ignore[no-untyped-def]
    jobs, cluster = problem
    found = place(jobs, cluster, deadline_minutes=deadline)
    assert broken_rules(found, jobs, cluster) == []
    assert found.lower_bound_minutes <= found.makespan_minutes
    assert found.bounds[0].minutes <= found.makespan_minutes * (1 + 1e-12)
    assert list(found.bounds) == sorted(found.bounds, key=lambda bound: -bound.minutes)
    assert all(slot.late_end_minutes is None or slot.late_end_minutes >= 0 for slot in found.schedule)
    if deadline is None:
        assert found.verdict is DeadlineVerdict.NO_DEADLINE
    else:
        assert isinstance(found.probability, float)
        assert 0 <= found.probability <= 1
        assert (found.verdict is DeadlineVerdict.IMPOSSIBLE) == (found.bounds[0].minutes > deadline)
        assert found.verdict is not DeadlineVerdict.FITS or (
            found.makespan_minutes <= deadline and found.probability >= 0.9
        )
    mixed = [replace(job, after=tuple(rng.sample(job.after, len(job.after)))) for job in rng.sample(jobs, len(jobs))]
    assert place(mixed, cluster, deadline_minutes=deadline) == found


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
    ends = [(60.0, 40.0, 120.0), (60.0, 59.0, 60.0), (60.0, 0.0, 90.0), (0.0, 0.0, 10.0), (60.0, None, None)]
    made = [
        PlaceJob(id=f"j{k}", minutes=Minutes(value=value, low=low, high=high))
        for k, (value, low, high) in enumerate(ends)
    ]
    problem = compile_problem(made, Cluster(gpus=1))
    drawn = np.array(draw_ticks(problem, 20_000, np.random.Generator(np.random.PCG64(3)))) / 1e9
    for k, (value, low, high) in enumerate(ends):
        assert np.median(drawn[:, k]) == pytest.approx(value, abs=0.02 * max(value, 1))
        assert drawn[:, k].min() >= 0
        if low is not None and high is not None and low > 0:
            assert (drawn[:, k] < low - 1e-9).mean() == pytest.approx(0.05, abs=0.005)
            if high > value:
                assert (drawn[:, k] > high + 1e-9).mean() == pytest.approx(0.05, abs=0.005)
