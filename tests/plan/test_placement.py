"""Schedules of jobs: cases by hand, a few jobs against brute force, many against the bound, and what always holds."""

import heapq
import itertools
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plan.made_placements import broken_rules, brute_force, chains
from tests.tiers import examples

from touchline.core.quantity import Missing
from touchline.experiment.requests import Cluster
from touchline.plan.placement.placing import chance_within, draw_ticks, place
from touchline.plan.placement.problem import DeadlineVerdict, Minutes, PlaceJob, compile_problem

pytestmark = pytest.mark.planning


# ---- by hand ---------------------------------------------------------------------------------------------------------


def job(name: str, minutes: float, *after: str, gpus: int = 1, low: float | None = None, **other: object) -> PlaceJob:
    high = None if low is None else minutes * minutes / low
    return PlaceJob(id=name, after=after, gpus=gpus, minutes=Minutes(value=minutes, low=low, high=high), **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("jobs", "cluster", "minutes", "why"),
    [
        ([job("a", 60), job("b", 60), job("c", 60)], Cluster(gpus=3), 60, "the longest job: a"),
        ([job("a", 60), job("b", 30, "a")], Cluster(gpus=3), 90, "the longest chain: a, b"),
        ([job(name, 60) for name in "abcd"], Cluster(gpus=2), 120, "all GPU minutes over 2 GPUs"),
        ([job(name, 60, gpus=3) for name in "abc"], Cluster(gpus=4), 180, "one after the other"),
        ([job(name, 60, gpus=2) for name in "abcd"], Cluster(gpus=5), 120, "at most 2 run at once (limited by GPUs)"),
        ([job(name, 60, cpus=20) for name in "abc"], Cluster(gpus=4, cpus=32), 180, "(CPUs), one after the other"),
        (
            [job("x", 10), job("a", 60, "x", pin=1), job("b", 60, pin=1), job("y", 5, "b")],
            Cluster(gpus=2),
            120,
            "GPU 1",
        ),
    ],
    ids=["job", "chain", "area", "half", "third", "cpus", "pin"],
)
def test_the_bound_that_decides_is_told(jobs: list[PlaceJob], cluster: Cluster, minutes: float, why: str) -> None:
    found = place(jobs, cluster, deadline_minutes=None)
    assert found.makespan_minutes == minutes
    assert found.lower_bound_minutes == minutes
    assert why in found.bounds[0].why
    assert found.probability == Missing(missing="no deadline was given")


def test_certain_durations_meet_a_deadline_or_do_not() -> None:
    jobs = [job("a", 60), job("b", 60)]
    assert place(jobs, Cluster(gpus=1), deadline_minutes=120.0).verdict is DeadlineVerdict.FITS
    assert place(jobs, Cluster(gpus=1), deadline_minutes=120.0).probability == 1
    assert place(jobs, Cluster(gpus=1), deadline_minutes=119.9).verdict is DeadlineVerdict.IMPOSSIBLE
    assert place(jobs, Cluster(gpus=1), deadline_minutes=119.9).probability == 0


def test_a_schedule_within_the_deadline_that_durations_may_break_is_tight() -> None:
    found = place([job("a", 60, low=40), job("b", 60, "a", low=40)], Cluster(gpus=2), deadline_minutes=122.0)
    assert found.verdict is DeadlineVerdict.TIGHT
    assert isinstance(found.probability, float)
    assert 0.4 < found.probability < 0.65


def test_a_chain_stays_on_its_gpus() -> None:
    jobs = [
        job(f"{chain}{stage}", 60, *([f"{chain}{stage - 1}"] if stage else [])) for chain in "ab" for stage in range(3)
    ]
    found = place(jobs, Cluster(gpus=2), deadline_minutes=None)
    assert {len({slot.gpus for slot in found.schedule if slot.id.startswith(chain)}) for chain in "ab"} == {1}


def test_more_jobs_than_all_orders_are_tried_of_end_as_early_as_they_can() -> None:
    """Longest chains first put 241 and 187 minutes on one GPU of four; twice 187 on one is shorter."""
    stages = [job("a", 241), job("b", 241), job("c", 241), job("d1", 64), job("d2", 187), job("e1", 64)]
    found = place([*stages, job("e2", 187, "e1")], Cluster(gpus=4), deadline_minutes=360)
    assert found.makespan_minutes == 374


def test_a_job_never_leaves_its_node() -> None:
    jobs = [job("a", 60, gpus=3), job("b", 60, gpus=3), job("c", 60, gpus=2)]
    found = place(jobs, Cluster(gpus=8, gpus_per_node=4), deadline_minutes=None)
    assert found.makespan_minutes == 120
    assert place(jobs, Cluster(gpus=8), deadline_minutes=None).makespan_minutes == 60


@pytest.mark.parametrize("limit", [30.0, 55.0, 60.0, 70.0, 100.0, 200.0])
@pytest.mark.parametrize("low", [20.0, 50.0, None])
def test_the_chance_of_a_plan_is_that_of_one_job(limit: float, low: float | None) -> None:
    one = job("a", 60, low=low)
    drawn = place([one], Cluster(gpus=1), deadline_minutes=limit).probability
    assert isinstance(drawn, float)
    assert chance_within(one.minutes, limit) == pytest.approx(drawn, abs=0.06)


# ---- brute force -----------------------------------------------------------------------------------------------------


def instance(generator: np.random.Generator, jobs: int, kind: str) -> tuple[list[PlaceJob], Cluster]:
    gpus = int(generator.integers(1, 9))
    cpus = int(generator.integers(4, 13)) if kind == "cpus" else None
    memory = float(generator.integers(8, 33)) if kind == "cpus" else None
    made = []
    for number in range(jobs):
        width = min(int(generator.choice([0, 1, 1, 2, 4, 8])), gpus)
        minutes = float(generator.integers(0, 7)) if generator.random() < 0.6 else round(90 * generator.random(), 2)
        made.append(
            PlaceJob(
                id=f"j{number}",
                after=tuple(f"j{i}" for i in range(number) if generator.random() < 0.25),
                gpus=width,
                cpus=int(generator.integers(0, (cpus or 0) + 1)),
                memory_gb=float(generator.integers(0, 10 * int(memory or 0) + 1)) / 10,
                minutes=Minutes(value=minutes),
            )
        )
    return made, Cluster(gpus=gpus, cpus=cpus, memory_gb=memory)


@pytest.mark.parametrize("kind", ["plain", "cpus"])
def test_a_few_jobs_end_within_five_percent_of_the_shortest_schedule(kind: str) -> None:
    """One in fifty may take longer: dispatch never leaves a GPU idle on purpose."""
    ratios = []
    for jobs, seed in itertools.product((1, 3, 5, 6), range(25)):
        made, cluster = instance(np.random.Generator(np.random.PCG64([jobs, seed, len(kind)])), jobs, kind)
        found = place(made, cluster, deadline_minutes=None)
        shortest = brute_force(made, cluster)
        assert found.lower_bound_minutes - 1e-6 <= shortest <= found.makespan_minutes + 1e-6, (seed, made, cluster)
        assert broken_rules(found, made, cluster) == []
        ratios.append(found.makespan_minutes / shortest if shortest else 1.0)
    assert mean(ratios) <= 1.01
    assert sorted(ratios)[-1 - len(ratios) // 50] <= 1.05


@pytest.mark.parametrize(("jobs", "gpus", "most"), [(100, 4, 1.03), (100, 16, 1.06), (500, 16, 1.02)])
def test_many_jobs_end_near_the_bound(jobs: int, gpus: int, most: float) -> None:
    found = [place(chains(jobs, gpus, seed), Cluster(gpus=gpus), deadline_minutes=None) for seed in range(3)]
    assert mean(each.makespan_minutes / each.lower_bound_minutes for each in found) <= most


# ---- whatever the jobs -----------------------------------------------------------------------------------------------


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
@settings(max_examples=examples(12), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problems(), st.none() | st.floats(0.5, 20000), st.randoms(use_true_random=False))
def test_every_placement_keeps_the_rules(problem: tuple[list[PlaceJob], Cluster], deadline: float | None, rng) -> None:  # type: ignore[no-untyped-def]
    jobs, cluster = problem
    found = place(jobs, cluster, deadline_minutes=deadline)
    assert broken_rules(found, jobs, cluster) == []
    assert found.lower_bound_minutes <= found.makespan_minutes
    assert found.bounds[0].minutes <= found.makespan_minutes * (1 + 1e-12)
    assert list(found.bounds) == sorted(found.bounds, key=lambda bound: -bound.minutes)
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
