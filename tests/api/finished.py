"""One finished experiment for all tests of a process: probed, planned, run and reported by commands, once."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import environment, make_experiment, touchline
from tests.forking.sitecustomize import NO_FIGURES

from tools.tiny_model import write_tiny_model


@dataclass(frozen=True)
class Finished:
    """An experiment, the machine that it was made on, and what its commands printed; not to be written to."""

    base: Path
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.base / "exp"

    @property
    def models(self) -> Path:
        return self.base / "models"

    @property
    def env(self) -> dict[str, str]:
        return environment(self.models, self.base / "cache", self.base / "history")

    def copy(self, place: Path) -> Path:
        return Path(shutil.copytree(self.folder, place, symlinks=True))


_MADE: list[Finished] = []


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished experiment of this process, whatever folder's tests ask for it first."""
    if not _MADE:
        _MADE.append(_finish(tmp_path_factory.mktemp("first machine")))
    return _MADE[0]


def _finish(base: Path) -> Finished:
    """Plan without a trace, run, which probes first, and plan again; keep what each said."""
    made = Finished(base)
    write_tiny_model(made.models / "Tiny-1M-Instruct")
    make_experiment(made.folder)
    env = made.env
    env.pop(NO_FIGURES, None)

    def call(*words: str) -> Any:
        done = touchline(*words, "--json", env=env, cwd=base)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    folder, told = str(made.folder), made.told
    told["cold"] = call("plan", folder, "--dry-run")["plan"]
    call("run", folder)
    files = {made.folder / name: (made.folder / name).read_bytes() for name in ("plan.json", "runs_plan.md")}
    told["probed"] = call("plan", folder)["plan"]
    told["changed"] = [str(path) for path, content in files.items() if path.read_bytes() != content]
    told["calibration"] = call("history", "calibration", "--history", str(base / "history"))
    other = make_experiment(base / "other", ranks="[4, 8]", n_train=320)
    told["next"] = call("plan", str(other))["plan"]
    return made
