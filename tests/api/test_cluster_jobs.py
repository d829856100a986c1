"""What the jobs of a plan ask a cluster for: the plan's tables and the scripts are one."""

import re
from pathlib import Path

import pytest
from tests.api.folders import environment, make_experiment, touchline

from touchline import api
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig

pytestmark = pytest.mark.planning


def on_a_cluster(root: Path, own: str = "") -> Path:
    """An experiment of one run for an A100 of a cluster."""
    folder = make_experiment(root / "tiny", ranks="[2]", n_train=48)
    with (folder / "experiment.yaml").open("a") as stream:
        stream.write(f"compute: {{executor: slurm, gpu: A100-80GB{own}}}\n")
    return folder


def scripts_times(folder: Path) -> dict[str, tuple[str, ...]]:
    """`--time` of the scripts in each run's folder, the training's first."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob("*/*.slurm"), key=lambda path: path.name, reverse=True):
        time = re.search(r"^#SBATCH --time=(.+)$", path.read_text(), re.MULTILINE)
        assert time is not None, path
        found[path.parent.name] = (*found.get(path.parent.name, ()), time[1])
    return found


@pytest.mark.parametrize(
    ("own", "training", "evaluation"),
    [
        ("", "0:15:00", "0:15:00"),
        (", time_limit: 90s", "0:02:00", "0:15:00"),
        (", evaluation: {time_limit: 4min}", "0:15:00", "0:04:00"),
        (", time_limit: 20h, evaluation: {time_limit: 1h}", "20:00:00", "1:00:00"),
    ],
)
def test_limits_have_a_floor_unless_the_user_sets_them_and_scripts_have_the_plans(
    tmp_path: Path, settings: UserConfig, own: str, training: str, evaluation: str
) -> None:
    """A tiny model's training takes seconds, and imports from a cold file system minutes."""
    folder = on_a_cluster(tmp_path, own)
    api.plan(folder, settings)
    api.prepare(folder, settings)
    assert scripts_times(folder) == {"1M_rank2": (training, evaluation), "1M_base": (evaluation,)}


def test_a_start_over_a_network_takes_half_a_minute_to_three(tmp_path: Path, settings: UserConfig) -> None:
    """On this machine it takes some seconds, of a training and of an evaluation."""
    folder = make_experiment(tmp_path / "tiny", ranks="[2]", n_train=48)
    for executor, low, high in (("local", 1, 30), ("slurm", 25, 200)):
        plan = api.plan(folder, settings, [f"compute={{executor: {executor}, gpu: A100-80GB}}"]).plan
        run = plan.runs[0]
        for found in (run.time_parts["start-up"], run.evaluate_startup_seconds):
            assert isinstance(found, Quantity)
            assert found.low is not None
            assert found.high is not None
            assert low <= found.low < found.high <= high


@pytest.mark.slow
def test_workers_are_compared_with_the_cpus_that_runs_have_when_they_share_a_node(
    tmp_path: Path, settings: UserConfig
) -> None:
    """Four runs on a node of 32 CPUs have 8 each; a job of its own asks for all that its workers need."""
    folder = on_a_cluster(tmp_path)
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("train:\n", "train:\n  dataloader_workers: 16\n"))
    api.plan(folder, settings)
    api.prepare(folder, settings)
    assert "#SBATCH --cpus-per-task=18\n" in (folder / "1M_rank2" / "finetune.slurm").read_text()
    env = environment(settings.models_dir, settings.cache_dir)
    for cpus, noted in (("32", True), ("128", False)):
        done = touchline("place", str(folder), "--gpus", "4", "--cpus-per-node", cpus, env=env)
        assert done.returncode == 0, done.stderr
        assert ("train.dataloader_workers=7" in " ".join((done.stdout + done.stderr).split())) is noted
