"""The cluster itself leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.slurm.cluster import Cluster, remove_cgroups

pytestmark = [pytest.mark.slurm, pytest.mark.thorough]
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
