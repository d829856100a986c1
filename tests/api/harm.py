"""Harm to trainings: planted faults, and kills of their processes."""

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

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


_CUSTOMIZE = """\
import importlib.machinery, importlib.util, os, sys, time


class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        import torch

        step = module.Training._optimizer_step

        def faulty(self, *arguments):
            time.sleep(float(os.environ.get("FAULT_SLOW", "0")))
            limit = int(os.environ.get("FAULT_OOM_ABOVE", "0"))
            if limit and self._session.micro_batch_size > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            at = int(os.environ.get("FAULT_RAISE_AT", "-1"))
            once = os.environ.get("FAULT_ONCE")
            if self._record.step == at and not (once and os.path.exists(once)):
                if once:
                    open(once, "w").close()
                raise ValueError("the weights of layer 3 went away")
            return step(self, *arguments)

        module.Training._optimizer_step = faulty


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "touchline.train.loop":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
"""


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch, **faults: str) -> None:
    """Let trainers that are started from here on have these faults: `oom_above`, `raise_at`, `once`, `slow`."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for name, value in faults.items():
        monkeypatch.setenv(f"FAULT_{name.upper()}", value)
