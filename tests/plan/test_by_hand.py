"""Cases that can be worked out by hand: verdicts, reasons, bounds, notes."""

from __future__ import annotations

import pytest

from touchline.core.quantity import Missing
from touchline.plan.placement.answer import place
from touchline.plan.placement.deadline import chance_within
from touchline.plan.placement.types import Cluster, DeadlineVerdict, Minutes, PlaceJob

pytestmark = pytest.mark.planning


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
