"""An experiment's folder, placed and emitted as one allocation or as arrays."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.run.made_plans import GPU, made_plan

from touchline.core.errors import InputError
from touchline.experiment.site import SlurmSite
from touchline.plan.placement.types import Cluster, DeadlineVerdict
from touchline.run.allocation import MEGA, SUBMIT, Placed, PlaceRequest, allocation_of, emit, place_experiment
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


def test_all_that_is_left_is_placed(planned: LoadedPlan) -> None:
    placed = _placed(planned)
    assert len(placed.placement.schedule) == 7
    assert placed.placement.verdict is DeadlineVerdict.FITS
    assert placed.placement.makespan_minutes == pytest.approx(130, abs=20)


def test_one_allocation_in_order_of_priority(planned: LoadedPlan) -> None:
    placed = _placed(planned)
    files, _ = emit(placed, SITE, "mega")
    assert [path.name for path in files] == [MEGA]
    text = files[0].read_text()
    assert "#SBATCH --time=6:00:00" in text
    assert "#SBATCH --gpus-per-node=2" in text
    assert "#SBATCH --partition=gpu" in text
    names = [line.split(" ")[1] for line in text.splitlines() if line.startswith("stage ") and "(" not in line]
    ranks = {slot.id: slot.priority for slot in placed.placement.schedule}
    in_order = sorted(ranks, key=lambda name: ranks[name])
    assert [name.strip("'").split("'")[0] for name in names] == [name.split(" ")[0] for name in in_order]
    assert subprocess.run(["bash", "-n", str(files[0])], check=False).returncode == 0
    assert files[0].stat().st_mode & 0o111


def test_an_allocation_has_a_time_and_whole_nodes(planned: LoadedPlan) -> None:
    placed = _placed(planned, None)
    with pytest.raises(InputError, match="needs a time"):
        emit(placed, SITE, "mega")
    text = emit(placed, SITE, "mega", time_minutes=240)[0][0].read_text()
    assert "#SBATCH --time=4:00:00" in text
    with pytest.raises(InputError, match="never be started"):
        emit(placed, SITE, "mega", time_minutes=60)
    with pytest.raises(InputError, match="whole nodes"):
        allocation_of(Cluster(gpus=6, gpus_per_node=4), 60, needs_gpus=True)
    assert allocation_of(Cluster(gpus=8, gpus_per_node=4), 60, needs_gpus=True).nodes == 2


def test_arrays_follow_the_levels_of_the_chains(planned: LoadedPlan) -> None:
    """Trainings without a parent, then their evaluations and the stage behind them, then that stage's evaluation."""
    files, _ = emit(_placed(planned), SITE, "array")
    names = [path.name for path in files]
    assert names[0] == SUBMIT
    lines = [line for line in files[0].read_text().splitlines() if line.startswith("submit array")]
    found = {}
    for path in files[1:]:
        inside = path.read_text().split("folders=(")[1].split(")")[0]
        found[path.name] = [line.split(" #")[0].strip() for line in inside.strip().splitlines()]
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert found == {
        "array_1.slurm": ["1M_rank4", "1M_rank64"],
        "array_2.slurm": ["1M_base"],
        "array_3.slurm": ["1M_rank4_hard"],
        "array_4.slurm": ["1M_rank4", "1M_rank64"],
        "array_5.slurm": ["1M_rank4_hard"],
    }
    assert lines == [
        'submit array_1.slurm ""',
        'submit array_2.slurm ""',
        'submit array_3.slurm "0"',
        'submit array_4.slurm "0"',
        'submit array_5.slurm "2"',
    ]


def test_arrays_are_split_where_the_cluster_wants_it(planned: LoadedPlan) -> None:
    files, _ = emit(_placed(planned), SITE, "array", max_array_size=1)
    lines = [line for line in files[0].read_text().splitlines() if line.startswith("submit array")]
    assert 'submit array_1_part1.slurm ""' in lines
    assert 'submit array_4_part2.slurm "1"' in lines


def test_what_is_not_prepared_is_not_emitted(planned: LoadedPlan) -> None:
    (planned.folder.root / "1M_rank4" / "finetune.slurm").unlink()
    with pytest.raises(InputError) as caught:
        emit(_placed(planned), SITE, "mega")
    assert "touchline prepare" in str(caught.value.hint)


def test_a_file_that_somebody_has_changed_is_left(planned: LoadedPlan) -> None:
    placed = _placed(planned)
    [path], _ = emit(placed, SITE, "mega")
    path.write_text("mine\n")
    assert emit(placed, SITE, "mega")[1] == [MEGA]
    assert path.read_text() == "mine\n"


def test_durations_of_a_processor_are_said_to_be_that(planned: LoadedPlan) -> None:
    assert _placed(planned).notes == ()
    plan = replace(planned.plan, machine=made_plan().machine)
    assert "those of a CPU" in _placed(replace(planned, plan=plan)).notes[0]
