"""Explore on a real SLURM: jobs that end COMPLETED while their trainings are paused, and the next rung's jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.api.test_explore import make
from tests.slurm.test_run_on_slurm import ON_SLURM, Site, events, site, submissions, until

from touchline.core.status import RunStatus
from touchline.run.folders import ExperimentFolder
from touchline.strategy.decisions import DecisionKind, StrategyDecision

__all__ = ["site"]
pytestmark = pytest.mark.slurm
RUNS = ("1M_rank2", "1M_rank4", "1M_rank8", "1M_rank16")


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def statuses(site: Site, folder: Path) -> dict[str, str]:
    return {run["name"]: run["status"] for run in site.json("status", folder)["runs"]}


def test_a_rung_of_explore_submitted_and_waited_for_decides_as_here(site: Site) -> None:
    """By submit, which returns at once and is called again at the point; then by resume, which waits to the end."""
    here, folder = make(site.root / "here"), make(site.root / "there")
    site.call("run", here)
    site.call("plan", folder, ON_SLURM)
    site.call("submit", folder)
    assert set(submissions(folder)) == set(RUNS), "no evaluation is submitted of a training that pauses"
    until(lambda: not site.states(folder))
    assert statuses(site, folder) == dict.fromkeys(RUNS, RunStatus.PAUSED.value)
    assert [each.kind for each in decided(folder)] == [DecisionKind.BEGIN]
    site.call("resume", folder)
    assert decided(folder) == tuple(decided(here))
    (first,), (second,) = (each.cut.cut for each in decided(folder) if each.cut is not None)
    cut = {first: 1, second: 2}
    expected = {run: RunStatus.CUT.value if run in cut else RunStatus.COMPLETED.value for run in RUNS}
    assert statuses(site, folder) == expected
    assert submissions(folder) == {
        **{run: cut.get(run, 3) for run in RUNS},
        **{f"evaluate {run}": 1 for run in RUNS if run not in cut},
    }
    assert {entry.state for entry in events(folder, "ended")} == {"COMPLETED"}
    assert not any((folder / run / "eval").exists() for run in cut)
