"""The cluster itself: it leaves nothing behind, and a test that needs it says clearly when there can be none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.slurm import packages
from tests.slurm.cluster import Cluster, remove_cgroups

pytestmark = [pytest.mark.slurm, pytest.mark.thorough]
REPOSITORY = Path(__file__).resolve().parents[2]


def test_it_is_what_the_tests_need(cluster: Cluster) -> None:
    """Two nodes with four GPUs and 32 processors each, two partitions, accounting that answers."""
    nodes = cluster.ask("sinfo", "-h", "-N", "-p", cluster.partition, "-o", "%N %c %G").splitlines()
    assert nodes == [f"{name} 32 gpu:4" for name in cluster.nodes]
    assert cluster.preemptible in cluster.ask("sinfo", "-h", "-o", "%P").splitlines()
    assert cluster.commands().run(["sacct", "-n"], timeout_seconds=30).ok
    assert "disabled" in cluster.commands(accounting=False).run(["sacct", "-n"], timeout_seconds=30).err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "KILL"])
def test_nothing_of_it_outlives_its_process(number: signal.Signals, cluster: Cluster) -> None:
    """Its daemons end with the process that started them, however that ends; the one that runs beside it stays."""
    words = [sys.executable, "-m", "tests.slurm.cluster"]
    with subprocess.Popen(
        words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
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


def test_where_there_can_be_none_one_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user than root, and a machine without apt-get."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert packages.unavailable() == "SLURM's daemons need root, and this is another user"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(packages, "missing_packages", lambda: ("slurmd", "munge"))
    monkeypatch.setenv("PATH", "")
    assert packages.unavailable() == "not installed, and there is no apt-get to install it: slurmd munge"
