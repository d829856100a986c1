"""Seed 004's experiment: the summary's placement misses its deadline, so does every other, and the README says why."""

import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from touchline.experiment.requests import Cluster
from touchline.plan.local.job_list import read_jobs
from touchline.plan.placement.placing import place
from touchline.plan.placement.problem import DeadlineVerdict, PlaceJob, Placement

pytestmark = pytest.mark.planning
FOLDER = Path(__file__).resolve().parents[2] / "src" / "touchline" / "examples" / "mega_job"
DEADLINE = 360.0
FOUR = Cluster(gpus=4, cpus=32, memory_gb=240)


def _jobs(name: str) -> list[PlaceJob]:
    return read_jobs(FOLDER / name)


def _place(jobs: list[PlaceJob], cluster: Cluster = FOUR) -> Placement:
    return place(jobs, cluster, deadline_minutes=DEADLINE)


def test_two_in_a_row_cannot_make_it() -> None:
    placed = _place(_jobs("jobs_pinned.json"))
    assert placed.verdict is DeadlineVerdict.IMPOSSIBLE
    assert any("7:21:12" in note for note in placed.notes)
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


@pytest.mark.slow
def test_the_readme_shows_what_its_commands_print() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?<!<!-- slow -->\n)```console\n\$ touchline (.*?)\n(.*?)```\n", text, re.DOTALL)
    assert len(blocks) == 3
    for command, shown in blocks:
        words = [sys.executable, "-m", "touchline.cli.main", *command.split()]
        environment = os.environ | {"COLUMNS": "200"}
        done = subprocess.run(words, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == shown, done.stderr
