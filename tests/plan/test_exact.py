"""Up to seven jobs the answer is the shortest schedule there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plan.brute import broken_rules, brute_force

from touchline.plan.placement.answer import place
from touchline.plan.placement.types import Cluster, Minutes, PlaceJob

pytestmark = [pytest.mark.planning, pytest.mark.slow]
SEEDS = {"plain": 40, "nodes": 6, "cpus": 40, "pins": 12}
"""Instances of a kind and size; of seven jobs half as many. Brute force takes minutes where there are nodes."""


def instance(generator: np.random.Generator, jobs: int, kind: str) -> tuple[list[PlaceJob], Cluster]:
    """A few jobs that get in one another's way."""
    gpus = int(generator.integers(1, 5 if kind in ("pins", "nodes") else 9))
    per_node = int(generator.integers(1, gpus + 1)) if kind == "nodes" else None
    cpus = int(generator.integers(4, 13)) if kind == "cpus" else None
    memory = float(generator.integers(8, 33)) if kind == "cpus" else None
    room = min(per_node or gpus, gpus)
    if per_node and gpus % per_node:
        room = min(room, gpus % per_node) if kind == "pins" else room
    made = []
    for number in range(jobs):
        width = min(int(generator.choice([0, 1, 1, 2, 4, 8])), room)
        minutes = float(generator.integers(0, 7)) if generator.random() < 0.6 else round(90 * generator.random(), 2)
        pin = int(generator.integers(0, gpus)) if kind == "pins" and width and generator.random() < 0.5 else None
        after = tuple(f"j{i}" for i in range(number) if generator.random() < 0.25)
        made.append(
            PlaceJob(
                id=f"j{number}",
                after=after,
                gpus=width,
                cpus=int(generator.integers(0, (cpus or 0) + 1)),
                memory_gb=float(generator.integers(0, 10 * int(memory or 0) + 1)) / 10,
                minutes=Minutes(value=minutes),
                pin=pin,
            )
        )
    return made, Cluster(gpus=gpus, gpus_per_node=per_node, cpus=cpus, memory_gb=memory)


@pytest.mark.parametrize("kind", ["plain", "nodes", "cpus", "pins"])
@pytest.mark.parametrize("jobs", [1, 2, 3, 4, 5, 6, 7])
def test_a_few_jobs_are_placed_as_brute_force_does(jobs: int, kind: str) -> None:
    for seed in range(SEEDS[kind] if jobs < 7 else SEEDS[kind] // 2):
        generator = np.random.Generator(np.random.PCG64([jobs, seed, len(kind)]))
        made, cluster = instance(generator, jobs, kind)
        found = place(made, cluster, deadline_minutes=None)
        assert found.makespan_minutes == pytest.approx(brute_force(made, cluster), abs=1e-6), (seed, made, cluster)
        assert found.lower_bound_minutes == pytest.approx(found.makespan_minutes, abs=1e-6)
        assert broken_rules(found, made, cluster) == []


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_brute_force_agrees_on_whatever_hypothesis_thinks_of(data: st.DataObject) -> None:
    gpus = data.draw(st.integers(1, 4), label="gpus")
    made = []
    for number in range(data.draw(st.integers(1, 5), label="jobs")):
        after = data.draw(st.sets(st.integers(0, number - 1), max_size=2), label="after") if number else set()
        made.append(
            PlaceJob(
                id=f"j{number}",
                after=tuple(f"j{i}" for i in sorted(after)),
                gpus=data.draw(st.integers(0, gpus), label="width"),
                minutes=Minutes(value=data.draw(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 2.0, 2.5, 60.0]))),
                pin=None,
            )
        )
    cluster = Cluster(gpus=gpus)
    found = place(made, cluster, deadline_minutes=None)
    assert found.makespan_minutes == pytest.approx(brute_force(made, cluster), abs=1e-6)
    assert broken_rules(found, made, cluster) == []


def test_waiting_on_purpose_is_found_where_it_pays() -> None:
    """Greed would start the long narrow job at once, and the wide one would wait for it."""
    made = [
        PlaceJob(id="a", gpus=1, minutes=Minutes(value=1)),
        PlaceJob(id="b", after=("a",), gpus=2, minutes=Minutes(value=10)),
        PlaceJob(id="c", gpus=1, minutes=Minutes(value=10)),
        PlaceJob(id="d", after=("b",), gpus=1, minutes=Minutes(value=10)),
    ]
    found = place(made, Cluster(gpus=2), deadline_minutes=None)
    assert found.makespan_minutes == brute_force(made, Cluster(gpus=2)) == 21
    assert found.kept_gpus is not None
    assert broken_rules(found, made, Cluster(gpus=2)) == []
