"""Looks on a real SLURM: submit returns after each stage and takes the look when it is called again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.api.test_strategy_for_real import make
from tests.slurm.test_run_on_slurm import ON_SLURM, Site, site, submissions, until

from touchline.run.folders import ExperimentFolder
from touchline.strategy.decisions import StrategyDecision

__all__ = ["site"]
pytestmark = pytest.mark.slurm


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def test_looks_taken_by_submit_are_those_that_are_taken_here(site: Site) -> None:
    """Each call says what the next one does; runs of a later look are submitted when it is needed, and not before."""
    here, folder = make(site.root / "here"), make(site.root / "there")
    site.call("run", here, "--no-probe")
    site.call("plan", folder, ON_SLURM)
    done = site.call("submit", folder)
    assert "look 1 of 2 waits for 4 runs" in done.stderr
    assert "touchline submit" in done.stderr
    assert len(submissions(folder)) == 8, "four trainings and their evaluations"
    until(lambda: not site.states(folder))
    assert [each.kind.value for each in decided(folder)] == ["begin"]
    done = site.call("submit", folder)
    assert "look 1 of 2 with 2 seeds: rate undecided" in done.stderr
    assert len(submissions(folder)) == 16
    until(lambda: not site.states(folder))
    site.call("submit", folder)
    assert decided(folder) == decided(here)
    assert set(submissions(folder).values()) == {1}
    shown = json.loads(site.call("status", folder, "--json").stdout)["strategy"]
    assert shown["verdicts"] == {"rate": "established"}
    assert shown["stop"]["reason"] == "settled"
