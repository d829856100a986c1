"""One allocation of four GPUs for five experiments with stages, on the real SLURM."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.run.allocation import make_run, stage
from tests.slurm.cluster import Cluster, remove_cgroups

from touchline.experiment.value_types import SlurmSite
from touchline.run.scripts.mega import Allocation, MegaStage, mega_text

pytestmark = [pytest.mark.slurm, pytest.mark.thorough]
SITE = SlurmSite(signal_seconds=20)


def _write(root: Path, cluster: Cluster, stages: list[MegaStage], *, gpus: int = 4) -> None:
    allocation = Allocation(gpus_per_node=gpus, cpus_per_node=8, memory_gb_per_node=2, seconds=600)
    site = SlurmSite(partition=cluster.partition, signal_seconds=SITE.signal_seconds)
    (root / "mega_job.slurm").write_text(mega_text("seed4", stages, allocation, site))


def _submit(root: Path, cluster: Cluster) -> str:
    return cluster.ask("sbatch", "--parsable", "mega_job.slurm", cwd=root)


def _wait(cluster: Cluster, job: str, root: Path) -> str:
    """Wait for the end of a job and give its output."""
    deadline = time.monotonic() + 300
    while cluster.ask("squeue", "-h", "-t", "PD,R,CG,CF", "-o", "%A").split().count(job):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return (root / f"slurm-mega-{job}.out").read_text()


def _accounts(cluster: Cluster, job: str, name: str) -> str:
    """What sacct says of a step, once it has heard of its end."""
    deadline = time.monotonic() + 30
    while True:
        lines = cluster.ask("sacct", "-nPj", job, "-o", "jobname,state,exitcode").splitlines()
        found = [line.split("|", 1)[1] for line in lines if line.startswith(f"{name}|")]
        if found and not found[0].startswith("RUNNING"):
            return found[0]
        assert time.monotonic() < deadline, lines
        time.sleep(0.3)


def test_five_experiments_with_stages_in_one_allocation(cluster: Cluster, tmp_path: Path) -> None:
    """Seed 004's job in small: order, chains, one GPU each, a failing stage, and evidence of each in both places."""
    root = tmp_path / "an experiment"
    # The first GPU that is free again is that of exp4_s1, at any pace: the other three go on until its child has begun.
    for name in ("exp3_s2", "exp4_s1", "exp4_s2", "exp5"):
        make_run(root, name)
    for name in ("exp1", "exp2"):
        make_run(root, name, until="../exp4_s2/began")
    make_run(root, "exp3_s1", until="../exp4_s2/began", code=3, complete=False)
    names = ["exp3_s1", "exp4_s1", "exp1", "exp2", "exp3_s2", "exp4_s2", "exp5"]
    parents = {"exp3_s2": ("exp3_s1",), "exp4_s2": ("exp4_s1",)}
    _write(root, cluster, [stage(name, parents.get(name, ())) for name in names])
    job = _submit(root, cluster)
    out = _wait(cluster, job, root)
    assert re.findall(r"started  (\S+) on", out) == ["exp3_s1", "exp4_s1", "exp1", "exp2", "exp4_s2", "exp5"]
    assert re.search(r"^exp3_s2 +blocked .*exp3_s1 is failed", out, re.MULTILINE)
    assert _accounts(cluster, job, "seed4-mega") == "FAILED|1:0"
    assert _accounts(cluster, job, "exp3_s1") == "FAILED|3:0"
    assert _accounts(cluster, job, "exp5") == "COMPLETED|0:0"
    first = [next((root / name).glob("slurm-*.out")).read_text() for name in ("exp3_s1", "exp4_s1", "exp1", "exp2")]
    assert sorted(re.findall(r"GPUs (\d) in", "".join(first))) == ["0", "1", "2", "3"]
    for name, code in (("exp3_s1", 3), ("exp1", 0)):
        [end] = (root / name / "status").glob("exit.*.json")
        found = json.loads(end.read_text())
        assert re.fullmatch(rf"{job}\.\d+", found["job_id"])
        assert found["code"] == code
    assert not (root / "exp3_s2" / "status").exists()


def test_told_to_save_it_goes_on_when_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    """USR1 to the script alone, as SLURM sends it before the limit: steps save, the rest is left for the next job."""
    root = tmp_path / "exp"
    for name in ("a", "b", "c"):
        make_run(root, name, seconds=60)
    _write(root, cluster, [stage("a"), stage("b"), stage("c")], gpus=2)
    job = _submit(root, cluster)
    deadline = time.monotonic() + 60
    while len([log for log in root.glob("[ab]/slurm-*.out") if "GPUs" in log.read_text()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    cluster.ask("scancel", "--signal=USR1", "--batch", job)
    out = _wait(cluster, job, root)
    assert "2 running stages are asked to save and stop" in out
    assert _accounts(cluster, job, "seed4-mega") == "FAILED|75:0"
    assert (root / "a" / "resume").exists()
    [end] = (root / "b" / "status").glob("exit.*.json")
    assert json.loads(end.read_text())["code"] == 75
    make_run(root, "c")
    again = _submit(root, cluster)
    out = _wait(cluster, again, root)
    assert _accounts(cluster, again, "seed4-mega") == "COMPLETED|0:0"
    assert re.findall(r"^(\w) +done", out, re.MULTILINE) == ["a", "b", "c"]


REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "KILL"])
def test_nothing_of_it_outlives_its_process(number: signal.Signals, cluster: Cluster) -> None:
    """Its daemons end with the process that started them, however that ends; the one that runs beside it stays."""
    words = [sys.executable, "-m", "tests.slurm.cluster"]
    with subprocess.Popen(
        words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        line = process.stdout.readline().strip()
        variable, _, path = line.removeprefix("export ").partition("=")
        assert variable == "SLURM_CONF"
        assert path != cluster.environment["SLURM_CONF"]
        daemons = psutil.Process(process.pid).children(recursive=True)
        names = {daemon.name() for daemon in daemons}
        assert names >= {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"}
        process.send_signal(number)
    _, alive = psutil.wait_procs(daemons, timeout=30)
    assert alive == []
    root = Path(path).parent.parent
    assert root.exists() == (number is signal.SIGKILL)
    if number is signal.SIGKILL:
        remove_cgroups(spool.name for spool in (root / "spool").iterdir())
        subprocess.run(["rm", "-r", "--", str(root)], check=True)
    assert "UP" in cluster.ask("scontrol", "ping")
