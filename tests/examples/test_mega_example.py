"""Seed 004's experiment: the summary's placement misses its deadline, so does every other, and the README says why."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from tests.examples.mega_readme import FOLDER, README, filled

from touchline.plan.local.job_list import read_jobs
from touchline.plan.placement.answer import place
from touchline.plan.placement.types import Cluster, DeadlineVerdict, Minutes, PlaceJob, Placement

pytestmark = pytest.mark.planning
DEADLINE = 360.0
FOUR = Cluster(gpus=4, cpus=32, memory_gb=240)


def _jobs(name: str) -> list[PlaceJob]:
    return read_jobs(FOLDER / name)


def _place(jobs: list[PlaceJob], cluster: Cluster = FOUR) -> Placement:
    return place(jobs, cluster, deadline_minutes=DEADLINE)


def _trained_at(jobs: list[PlaceJob], factor: float) -> list[PlaceJob]:
    """The jobs with trainings `factor` times as fast as before, which took 20 hours an experiment."""
    found = []
    for job in jobs:
        minutes = job.minutes
        if not job.id.startswith("evaluate") and minutes.low is not None:
            minutes = Minutes(value=8 * minutes.low / factor)
        found.append(replace(job, minutes=replace(minutes, low=None, high=None)))
    return found


def test_the_durations_are_those_of_the_summary() -> None:
    """20 h at 4 to 8 times the speed, stages by their examples, evaluations of 1 to 2 hours in all."""
    jobs = {job.id: job.minutes for job in _jobs("jobs.json")}
    assert (jobs["exp1"].low, jobs["exp1"].high) == (20 * 60 / 8, 20 * 60 / 4)
    assert jobs["exp1"].value == pytest.approx(20 * 60 / (4 * 8) ** 0.5, abs=0.1)
    for name in ("exp3", "exp4"):
        parts = [jobs[f"{name}_stage{number}"] for number in (1, 2)]
        assert sum(part.value for part in parts) == pytest.approx(jobs["exp1"].value, abs=0.2)
        assert parts[0].value / jobs["exp1"].value == pytest.approx(1341 / 5364, abs=1e-3)
    evaluations = [minutes for name, minutes in jobs.items() if name.startswith("evaluate")]
    assert sum(each.low or 0 for each in evaluations) == 60
    assert sum(each.high or 0 for each in evaluations) == 120


def test_two_in_a_row_cannot_make_it() -> None:
    placed = _place(_jobs("jobs_pinned.json"))
    assert placed.verdict is DeadlineVerdict.IMPOSSIBLE
    assert placed.bounds[0].why.startswith("GPU 0 runs 4 jobs in a row")
    assert placed.makespan_minutes == pytest.approx(2 * 212.1 + 2 * 17, abs=0.1)


def test_no_other_placement_on_four_gpus_makes_it() -> None:
    """Of five long jobs two share a GPU, in any order: the least that such a pair takes is past the deadline."""
    jobs = _jobs("jobs.json")
    minutes = {job.id: job.minutes.value for job in jobs}
    heads = {job.id: sum(minutes[parent] for parent in job.after) for job in jobs}
    tails = {parent: minutes[job.id] for job in jobs for parent in job.after if job.id.startswith("evaluate")}
    long = [name for name, value in minutes.items() if value > 150]
    assert len(long) == 5
    least = min(
        min(heads[a] + minutes[a] + minutes[b] + tails[b], heads[b] + minutes[b] + minutes[a] + tails[a])
        for a, b in combinations(long, 2)
    )
    placed = _place(jobs)
    assert least > DEADLINE
    assert placed.makespan_minutes == pytest.approx(least)
    assert placed.verdict is not DeadlineVerdict.FITS


def test_one_more_gpu_makes_it() -> None:
    placed = _place(_jobs("jobs.json"), Cluster(gpus=5, cpus=40, memory_gb=300))
    assert placed.verdict is DeadlineVerdict.FITS


@pytest.mark.parametrize(("name", "enough"), [("jobs_pinned.json", 7.4), ("jobs.json", 6.15)])
def test_how_much_faster_it_would_have_to_be(name: str, enough: float) -> None:
    jobs = _jobs(name)
    assert _place(_trained_at(jobs, enough)).makespan_minutes <= DEADLINE
    assert _place(_trained_at(jobs, enough - 0.1)).makespan_minutes > DEADLINE


@pytest.mark.slow
def test_the_readme_shows_what_its_commands_print() -> None:
    """`python -m tests.examples.mega_readme` writes it anew."""
    text = README.read_text(encoding="utf-8")
    assert filled(text) == text
