"""Two phases on a real SLURM: submit returns after each stage and takes the decision when it is called again."""

import json

import pytest
from tests.slurm.test_run_on_slurm import ON_SLURM, Site, events, site, submissions, until
from tests.strategy.stand_ins import decided
from tests.strategy.test_for_real import make

from touchline.core.status import RunStatus

__all__ = ["site"]
pytestmark = [pytest.mark.slurm, pytest.mark.thorough]


def test_decisions_taken_by_submit_are_those_that_are_taken_here(site: Site) -> None:
    """Jobs end COMPLETED while their trainings are paused; runs of a later stage are submitted when it is needed."""
    here, folder = make(site.root / "here"), make(site.root / "there")
    site.call("run", here, "--no-probe")
    site.call("plan", folder, ON_SLURM)
    done = site.call("submit", folder)
    assert "point 1 of 1, step 3, waits for 3 runs" in done.stderr
    assert "touchline submit" in done.stderr
    until(lambda: not site.states(folder))
    explored = set(submissions(folder))
    assert len(explored) == 3, "no evaluation is submitted of a training that pauses"
    states = {run["name"]: run["status"] for run in site.json("status", folder)["runs"]}
    assert {states[run] for run in explored} == {RunStatus.PAUSED.value}
    for count in range(2, 5):
        site.call("submit", folder)
        until(lambda: not site.states(folder))
        assert len(decided(folder)) >= count
    site.call("submit", folder)
    assert decided(folder) == decided(here)
    assert {entry.state for entry in events(folder, "ended")} == {"COMPLETED"}
    shown = json.loads(site.call("status", folder, "--json").stdout)["strategy"]
    assert set(shown["verdicts"].values()) == {"established"}
    assert shown["stop"]["reason"] == "settled"
