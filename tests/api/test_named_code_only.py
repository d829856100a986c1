"""`touchline check` runs the code of a task file only if that file was named, and says so first."""

import importlib.util
import shutil
from functools import partial
from pathlib import Path

import pytest
from tests.api.folders import EXPERIMENT, environment, make_experiment, tiny_settings, touchline
from tests.api.made_runs import train
from tests.cases import write

from touchline import api
from touchline.core.files import sha256_file
from touchline.data.user_config import UserConfig
from touchline.run import launching

pytestmark = pytest.mark.planning

CODE = """from pathlib import Path

Path({mark!r}).open("a").write("ran\\n")
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import match


@task
def words():
    Path({mark!r}).open("a").write("built\\n")
    return Task(dataset=[Sample(input="Say a", target="a")] * 30, scorer=match())


def score(output, target):
    return output == target
"""


def settings_of(folder: Path) -> UserConfig:
    return UserConfig(models_dir=folder / "models", cache_dir=folder / "cache", history_dir=folder / "history")


def trap(path: Path, mark: Path) -> Path:
    """A task file that leaves a mark when it is imported."""
    return write(path, CODE.format(mark=str(mark)))


def test_no_folder_runs_the_code_that_lies_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file is called, however deep it lies, and through links; nor does an experiment that names it."""
    mark, settings = tmp_path / "ran", settings_of(tmp_path)
    tree = tmp_path / "tree"
    for name in ("task.py", "a/b/c/inspect.py", "a/b.py/task.py", "eval.py", "a/conftest.py"):
        trap(tree / name, mark)
    outside = trap(tmp_path / "outside" / "task.py", mark)
    (tree / "linked.py").symlink_to(outside)
    (tree / "folder").symlink_to(outside.parent)
    (tree / "ring").symlink_to(tree)
    experiment = tree / "experiment"
    trap(experiment / "tasks" / "mine.py", mark)
    (experiment / "experiment.yaml").write_text(
        EXPERIMENT.format(ranks="[2]").replace("task: capitalization", "task: tasks/mine.py@words")
    )
    said: list[str] = []
    monkeypatch.chdir(tree)
    for place in (Path(), tree / "a" / "b.py", tree / "folder", experiment, experiment / "experiment.yaml"):
        api.check([place], settings, None, said.append)
    assert not mark.exists()
    assert said == []


class BeganError(Exception):
    """A job was about to start."""


def test_code_of_a_received_folder_is_named_before_anything_starts(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every verb that runs it, with its hash; the first time as not on record here; by the plan as well."""
    pytest.importorskip("torch")  # Without it the verbs end before they name anything.

    def begin(*_: object, **__: object) -> None:
        raise BeganError

    mark, settings = tmp_path / "ran", tiny_settings(tmp_path, tiny_model)
    sent = make_experiment(tmp_path / "sent", ranks="[2]", n_train=16, n_test=4)
    code = trap(sent / "tasks" / "mine.py", mark)
    yaml = (sent / "experiment.yaml").read_text().replace("task: capitalization", "task: tasks/mine.py@words")
    (sent / "experiment.yaml").write_text(yaml)
    file = f"tasks/mine.py (sha256 {sha256_file(code)[:8]}"
    assert f"{file}), review it before it runs" in " ".join(api.plan(sent, settings).screen().split())
    plan = api.prepare(sent, settings).plan
    (run,) = (each for each in plan.runs if each.train is not None)
    train(plan, run, sent / run.name)
    received = Path(shutil.copytree(sent, tmp_path / "received"))
    shutil.rmtree(sent)
    (received / run.name / "finetune.slurm").write_text("#!/bin/bash\necho theirs\n")
    monkeypatch.setattr(launching, "run_jobs", begin)
    unknown = ", no earlier run on record here"
    for verb in (api.evaluate, partial(api.run, probe=False), api.resume):
        said: list[str] = []
        with pytest.raises(BeganError):
            verb(received, settings, on_message=said.append)
        assert f"runs the code of {file}{unknown})" in said
        assert f"{run.name}/finetune.slurm was changed by hand and is not overwritten" in said
        unknown = ""
    with pytest.raises(BeganError):
        api.reproduce(received, settings, run=run.name, on_message=said.append)
    assert f"runs the code of {received}/{file})" in said
    assert not mark.exists()


@pytest.mark.slow
def test_a_named_file_runs_after_a_line_that_says_so(tmp_path: Path) -> None:
    """By any of the three forms of its name; the line stands on stderr."""
    mark = tmp_path / "ran"
    path = trap(tmp_path / "deep" / "task.py", mark)
    env = environment(tmp_path / "models", tmp_path / "cache")
    done = touchline("check", str(path.parent), env=env)
    assert (mark.exists(), "running the code" in done.stderr) == (False, False)
    done = touchline("check", f"{path}:score", env=env)
    assert mark.read_text() == "ran\n"
    assert f"running the code of {path}:score to test its scorers" in done.stderr
    assert "running the code" not in done.stdout
    mark.unlink()
    settings, said = settings_of(tmp_path), list[str]()
    link = tmp_path / "link.py"
    link.symlink_to(path)
    for name in (Path(f"{path}@words"), link):
        api.check([name], settings, None, said.append)
    # Where Inspect is not installed, the file's own import of it ends what had begun to run.
    built = "built\n" if importlib.util.find_spec("inspect_ai") is not None else ""
    assert mark.read_text() == f"ran\n{built}" * 2
    assert len(said) == 2
