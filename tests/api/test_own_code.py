"""Recipes and task files of the user: named before they run, and never executed by a plan."""

import importlib.util
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from tests.api.folders import EXPERIMENT, environment, make_experiment, tiny_settings, touchline
from tests.api.made_runs import train
from tests.cases import refusal, write
from tests.trainer_experiments import EXPERIMENT as RECIPE_EXPERIMENT
from tests.trainer_experiments import plan_pairs

from touchline import api
from touchline.backends.torchtune.recipes import WRITTEN_KEYS
from touchline.core.errors import PlanDriftError
from touchline.core.files import sha256_file
from touchline.core.finding import Severity
from touchline.data.user_config import UserConfig
from touchline.experiment.document import parse
from touchline.experiment.training import TrainConfig
from touchline.lint.local.run_files import read_recipe
from touchline.run import launching
from touchline.run.loaded_plan import read_planned, write_folders
from touchline.run.plan_checks import refuse_findings
from touchline.train.attempt import Stop
from touchline.train.external import run_external

pytestmark = pytest.mark.planning


READ = sorted(WRITTEN_KEYS - {"clip_grad_norm"})
RECIPE = "\n".join(
    (
        "import sys",
        "from torchtune import config",
        "raise SystemExit('executed')",
        "class Recipe:",
        "    def __init__(self, cfg):",
        *(f"        self.{key} = cfg.{key}" for key in READ),
        "        self.clip = cfg.get('clip_grad_norm', None)",
        "@config.parse",
        "def recipe_main(cfg):",
        "    config.log_config(recipe_name='mine', cfg=cfg)",
        "    Recipe(cfg=cfg)",
        "if __name__ == '__main__':",
        "    sys.exit(recipe_main())",
        "",
    )
)
FILE = "train.backend: torchtune, train.recipe: recipes/mine.py"
NO_VALIDATION = ("train.validate_every_steps=null",)
NAME = "train.backend: torchtune, train.recipe: lora_finetune_single_device"
RECIPES = {
    "recipes/needs.py": RECIPE.replace("cfg.seed\n", "cfg.seed\n        self.x = cfg.teacher, cfg['kd']\n"),
    "recipes/tests_key.py": RECIPE.replace("cfg.seed\n", "cfg.seed\n        self.x = 'kd' in cfg and cfg.kd\n"),
    "recipes/needs_split.py": RECIPE.replace("cfg.seed\n", "cfg.seed\n        self.x = cfg.dataset_val\n"),
    "recipes/ignores.py": RECIPE.replace("self.epochs = cfg.epochs", "pass"),
    "recipes/gives_away.py": RECIPE.replace("self.epochs = cfg.epochs", "self.all = cfg"),
    "recipes/parent_reads.py": RECIPE.replace("self.epochs = cfg.epochs", "super().__init__(cfg)"),
    "recipes/several.py": RECIPE + "def start(): init_process_group('gloo')\n",
    "recipes/no_entry.py": "epochs = 3\n",
    "recipes/no_python.py": "def (",
    "recipes/helped.py": "import no_entry\n" + RECIPE,
    "recipes/mine.py": RECIPE,
}


def _write(words: Path) -> None:
    splits = json.loads(words.read_text())
    del splits["validation"]
    words.with_name("train_only.json").write_text(json.dumps(splits))
    (words.parent / "recipes").mkdir()
    for name, text in RECIPES.items():
        (words.parent / name).write_text(text)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an experiment that trains by the recipe of a file, prepared."""
    base = tmp_path_factory.mktemp("recipes")
    return plan_pairs(base, [FILE, NAME], *NO_VALIDATION, more_data=_write).folder


def _settings(folder: Path) -> UserConfig:
    base = folder.parent
    return UserConfig(models_dir=base / "models", cache_dir=base / "cache", history_dir=base / "history")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("recipes/needs.py", ["needs the key 'teacher'", "needs the key 'kd'"]),
        ("recipes/needs_split.py, data.path: train_only.json", ["'dataset_val'", "no validation split"]),
        ("recipes/ignores.py", ["never reads the key 'epochs'"]),
        ("recipes/several.py", ["for several devices"]),
        ("recipes/no_entry.py", ["not a torchtune recipe"]),
        ("recipes/no_python.py", ["line 1"]),
        ("recipes/helped.py", ["imports no_entry.py"]),
        ("recipes/mime.py", ["recipes/mime.py", "recipe: mine.py"]),
        ("recipes/mine.py, train.validate_every_steps: 3", ["'run_val_every_n_steps'"]),
        ("full_finetune_single_device", ["lora_finetune_single_device (one device) or lora_finetune_distributed"]),
        ("lora_finetune_distributed", ["the run has 1 device"]),
        ("recipes/mine.py, train.backend: trl", ["backend trl does not support recipe", "backend: torchtune"]),
    ],
)
def test_a_recipe_that_cannot_train_is_refused_by_plan_and_check(
    experiment: Path, tmp_path: Path, recipe: str, words: list[str]
) -> None:
    """With every fault by its name, and nothing of the file is executed."""
    folder = shutil.copytree(experiment, tmp_path / "x", ignore=shutil.ignore_patterns("plan.json", ".touchline"))
    pairs = f"  - {{{FILE.replace('recipes/mine.py', recipe)}}}\n"
    if "trl" in recipe:
        pairs = "  - {train.backend: trl, train.recipe: recipes/mine.py}\n"
    text = RECIPE_EXPERIMENT.replace("  validate_every_steps: 3\n", "")
    model = experiment.parent / "models" / "Tiny-1M-Instruct"
    (folder / "experiment.yaml").write_text(text.format(model=model, pairs=pairs))
    caught = refusal(api.plan, folder, _settings(experiment), dry_run=True)
    errors = [each for each in caught.findings if each.severity is Severity.ERROR]
    said = [f"{each.message} {each.hint}" for each in errors]
    assert {each.code for each in errors} == {"BK001"}
    assert {each.where.line for each in errors if each.where is not None} == {1 + text.count("\n")}
    assert all(any(word in each for each in said) for word in words), said
    _, checked = api.check([folder], _settings(experiment))
    assert {f"{each.message} {each.hint}" for each in checked if each.code == "BK001"} == set(said)


def test_a_recipe_is_named_copied_and_configured_and_never_executed(experiment: Path) -> None:
    run = read_planned(experiment).plan.runs[0]
    assert run.recipe is not None
    assert run.recipe.path == "recipes/mine.py"
    assert f"sha256 {run.recipe.sha256[:12]}" in (experiment / "runs_plan.md").read_text()
    folder = experiment / run.name
    assert (folder / "run_recipe.py").read_text() == RECIPE
    text = (folder / "finetune.yaml").read_text()
    assert "tune run run_recipe --config finetune.yaml" in text
    assert parse(text, "finetune.yaml").data.keys() == WRITTEN_KEYS
    named = experiment / read_planned(experiment).plan.runs[1].name
    text = (named / "finetune.yaml").read_text()
    assert "tune run lora_finetune_single_device --config finetune.yaml" in text
    assert parse(text, "finetune.yaml").data.keys() == WRITTEN_KEYS
    assert not list(named.glob("*_val.py"))


@pytest.mark.parametrize("recipe", ["recipes/tests_key.py", "recipes/gives_away.py", "recipes/parent_reads.py"])
def test_keys_that_may_be_missing_or_read_elsewhere_are_no_fault(experiment: Path, recipe: str) -> None:
    """Keys that the recipe tests first, and those that other code may read from the whole config."""
    read, faults = read_recipe(TrainConfig(backend="torchtune", recipe=recipe), experiment, None, 1)
    assert read is not None
    assert faults == []
    assert ("epochs" in read.keys, "dataset_val" in read.keys) == (True, recipe != "recipes/tests_key.py")


def test_an_edited_recipe_is_refused_before_the_queue_in_the_folder_and_by_a_started_run(
    experiment: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(experiment, tmp_path / "x")
    settings, planned = _settings(experiment), read_planned(folder)
    run = planned.plan.runs[0]
    copy = folder / run.name / "run_recipe.py"
    copy.write_text(RECIPE + "\n")
    with pytest.raises(PlanDriftError, match=r"the recipe .*run_recipe\.py' changed since planning"):
        run_external(folder / run.name, Stop())
    copy.write_text(RECIPE)
    (folder / "recipes" / "mine.py").write_text(RECIPE + "# edited\n")
    with pytest.raises(PlanDriftError, match=r"the recipe 'recipes/mine\.py' changed"):
        refuse_findings(planned, settings)
    with pytest.raises(PlanDriftError, match=r"the recipe 'recipes/mine\.py' changed"):
        write_folders(planned, planned.plan.runs, settings)
    again = api.plan(folder, settings, NO_VALIDATION).plan.runs[0]
    assert again.digest != run.digest
    write_folders(read_planned(folder), [again], settings)
    assert copy.read_text() == RECIPE + "# edited\n"


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
