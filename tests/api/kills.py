"""Kill -9 of training processes while `touchline run` waits for them."""

import subprocess
import time
from pathlib import Path

import psutil

_PATIENCE = 180
"""Seconds until a training has begun."""


def wait_for_steps(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Wait until a run has logged steps, while the command works."""
    deadline = time.monotonic() + _PATIENCE
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b'"event":"step"') < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{run.name} has not begun"
        time.sleep(0.002)


def training_processes(run: Path) -> list[psutil.Process]:
    """The processes that train in a run's folder; the one that started the others first."""
    found = []
    # Of a number that is used again psutil would give the process that had it before, which nobody can kill any more.
    psutil.process_iter.cache_clear()
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            trains = words[1:3] == ["-m", "touchline.train"] or Path(*words[1:2]).name == "finetune.py"
            if trains and Path(process.cwd()) == run.resolve():
                found.append(process)
        except psutil.Error:
            continue
    pids = {process.pid for process in found}
    return sorted(found, key=lambda process: process.ppid() in pids)


def kill_first_process(run: Path, together: int) -> None:
    """Kill the first process of a run's training; none of the others may outlive it."""
    family = training_processes(run)
    assert len(family) == together, family
    family[0].kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, f"orphans of {run.name}: {alive}"


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in family:
        each.kill()
    psutil.wait_procs(family, timeout=30)
    process.wait()
