"""The schedule of a few jobs is near the shortest there is, and that of many near the bound."""

from __future__ import annotations

import itertools
from statistics import mean

import numpy as np
import pytest
from tests.plan.brute import broken_rules, brute_force
from tests.plan.instances import chains

from touchline.plan.placement.answer import place
from touchline.plan.placement.types import Cluster, Minutes, PlaceJob

pytestmark = pytest.mark.planning


def instance(generator: np.random.Generator, jobs: int, kind: str) -> tuple[list[PlaceJob], Cluster]:
    """A few jobs that get in one another's way."""
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
