"""An experiment's folder, placed and written as one allocation."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import refusal
from tests.run.made_plans import GPU, made_plan

from touchline.core.errors import InputError
from touchline.experiment.requests import Cluster, PlaceRequest
from touchline.experiment.site import SlurmSite
from touchline.run.allocation import MEGA, Placed, allocation_of, place_experiment, write_allocation
from touchline.run.folders import ExperimentFolder
from touchline.run.planning import LoadedPlan

pytestmark = pytest.mark.planning
SITE = SlurmSite(signal_seconds=120, partition="gpu")
CLUSTER = Cluster(gpus=2, cpus=16)


@pytest.fixture
def planned(tmp_path: Path) -> LoadedPlan:
    """Two trainings, a stage behind the first, a control; all their scripts are there."""
    (tmp_path / "experiment.yaml").touch()
    folder = ExperimentFolder(tmp_path)
    plan = made_plan(machine=GPU)
    for run in plan.runs:
        folder.run(run.name).mkdir()
        (folder.run(run.name) / "finetune.slurm").touch()
        (folder.run(run.name) / "eval.slurm").touch()
    return LoadedPlan(plan=plan, folder=folder, changed=False)


def _placed(planned: LoadedPlan, deadline: float | None = 360) -> Placed:
    return place_experiment(planned, SITE, PlaceRequest(cluster=CLUSTER, deadline_minutes=deadline))


def test_one_allocation_in_order_of_priority(planned: LoadedPlan) -> None:
    placed = _placed(planned)
    path, _ = write_allocation(placed, SITE)
    assert path.name == MEGA
    text = path.read_text()
    assert "#SBATCH --time=6:00:00" in text
    assert "#SBATCH --gpus-per-node=2" in text
    assert "#SBATCH --partition=gpu" in text
    names = [line.split(" ")[1] for line in text.splitlines() if line.startswith("stage ") and "(" not in line]
    ranks = {slot.id: slot.priority for slot in placed.placement.schedule}
    in_order = sorted(ranks, key=lambda name: ranks[name])
    assert [name.strip("'").split("'")[0] for name in names] == [name.split(" ")[0] for name in in_order]
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert path.stat().st_mode & 0o111


def test_an_allocation_has_a_time_and_whole_nodes(planned: LoadedPlan) -> None:
    placed = _placed(planned, None)
    with pytest.raises(InputError, match="needs a time"):
        write_allocation(placed, SITE)
    text = write_allocation(placed, SITE, 240)[0].read_text()
    assert "#SBATCH --time=4:00:00" in text
    with pytest.raises(InputError, match="never start in"):
        write_allocation(placed, SITE, 60)
    with pytest.raises(InputError, match="whole nodes"):
        allocation_of(Cluster(gpus=6, gpus_per_node=4), 60, needs_gpus=True)
    assert allocation_of(Cluster(gpus=8, gpus_per_node=4), 60, needs_gpus=True).nodes == 2


def test_what_is_not_prepared_is_not_emitted(planned: LoadedPlan) -> None:
    (planned.folder.root / "1M_rank4" / "finetune.slurm").unlink()
    assert "touchline prepare" in str(refusal(write_allocation, _placed(planned), SITE).hint)


def test_a_file_that_somebody_has_changed_is_left(planned: LoadedPlan) -> None:
    placed = _placed(planned)
    path, _ = write_allocation(placed, SITE)
    path.write_text("mine\n")
    assert MEGA in write_allocation(placed, SITE)[1][0]
    assert path.read_text() == "mine\n"


def test_durations_of_a_processor_are_said_to_be_that(planned: LoadedPlan) -> None:
    assert _placed(planned).notes == ()
    plan = replace(planned.plan, machine=made_plan().machine)
    assert len(_placed(replace(planned, plan=plan)).notes) == 1
