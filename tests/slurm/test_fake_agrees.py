"""The fake answers as the real SLURM does: one list of conversations, recorded from the real one, runs against both."""

from pathlib import Path

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.fake import FakeSlurm
from tests.slurm.fake_jobs import SimClock
from tests.slurm.fake_work import Machines
from tests.slurm.scenarios import SCENARIOS, converse, converse_all, differences, recorded


@pytest.mark.planning
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_fake_says_what_the_real_one_said(name: str, tmp_path: Path) -> None:
    clock = SimClock()
    machines = Machines(clock=clock, plans={})
    fake = FakeSlurm(clock, machines.work)
    machines.cluster = fake.cluster
    said = converse(name, fake, clock, tmp_path / "talk", list(fake.cluster.nodes))
    assert list(differences({name: said}, {name: recorded()[name]})) == []


@pytest.mark.planning
def test_every_scenario_was_recorded() -> None:
    """A new one must be asked of the real SLURM first."""
    assert set(recorded()) == set(SCENARIOS)
    assert all(lines and not lines[0].startswith("waited") for lines in recorded().values())


@pytest.mark.slurm
@pytest.mark.thorough
def test_the_real_one_says_it_still(cluster: Cluster, tmp_path: Path) -> None:
    """Some 40 s, of which 30 are those after which SLURM looks for jobs past their limits; all at the same time."""
    said = converse_all(cluster.commands(), tmp_path, cluster.nodes)
    assert list(differences(said, recorded())) == []
