"""`import touchline`: the verbs as Python functions."""

from __future__ import annotations

import inspect
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.api.folders import environment, make_experiment

import touchline
import touchline.plan.build
from touchline.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
FINISHED = ROOT / "tests" / "fixtures" / "written-by-0.1.0" / "finished"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A finished experiment that may be written to."""
    return Path(shutil.copytree(FINISHED, tmp_path / "finished"))


def test_the_import_is_light() -> None:
    """Neither pandas, torch, scipy nor anything of touchline's own rooms loads before a verb is called."""
    program = "import sys, touchline; import json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout))
    assert not loaded & {"numpy", "pandas", "pydantic", "scipy", "torch", "transformers"}
    assert {name for name in loaded if name.startswith("touchline")} == {"touchline"}


def test_every_verb_is_a_function_with_optional_settings() -> None:
    """A verb that shares its name with a package is called, and the package's modules are still reached."""
    from touchline import api

    for name in touchline.__all__[1:]:
        verb = getattr(touchline, name)
        assert callable(verb), name
        parameters = inspect.signature(verb).parameters
        assert "settings" not in parameters or parameters["settings"].default is None, name
        assert set(inspect.signature(getattr(api, name)).parameters) == set(parameters), name
        assert name in dir(touchline)
    assert touchline.plan.build is sys.modules["touchline.plan.build"]
    with pytest.raises(AttributeError):
        touchline.nothing  # noqa: B018


def test_results_as_a_table(experiment: Path) -> None:
    """One row per run; levels are numbers, and what was not measured is no number."""
    results = touchline.results(str(experiment))
    frame = results.to_frame()
    assert list(frame.index) == [run.name for run in results]
    levels = frame["train.lora.rank"].dropna()
    assert len(levels) >= 2
    assert [float(level) for level in levels] == sorted(float(level) for level in levels)
    trained = next(run for run in results if run.train_losses)
    assert math.isclose(frame.loc[trained.name, "train_seconds"], trained.train_seconds.value)
    assert math.isclose(frame.loc[trained.name, "score"], trained.score.value)
    control = next(run for run in results if not run.train_losses)
    assert math.isnan(frame.loc[control.name, "train_seconds"])
    assert results == touchline.results(experiment)


def test_errors_are_exceptions(tmp_path: Path) -> None:
    """A wrong path raises what the command line prints."""
    with pytest.raises(InputError, match="does not exist"):
        touchline.status(str(tmp_path / "nothing.yaml"))


def test_the_python_lines_of_the_readme(tiny_model: Path, tmp_path: Path) -> None:
    """They plan, run and tabulate an experiment."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    make_experiment(tmp_path / "my_experiment", n_train=48)
    env = environment(tmp_path / "models", tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"train.lora.rank +score +train_seconds", done.stdout)
    assert len(re.findall(r"^1M_rank[24] +[24](?:\.0)? +0\.\d+ +\d+\.\d+$", done.stdout, re.MULTILINE)) == 2
