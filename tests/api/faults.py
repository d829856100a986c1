"""Faults put into the trainer's process from outside, so that its own way of dying is what is tried."""

import os
from pathlib import Path

import pytest

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
