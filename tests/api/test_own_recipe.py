"""`train.recipe`: a recipe of the user's own is read and hashed, never executed by checks, and refused by key."""

import json
import shutil
from pathlib import Path

import pytest
from tests.cases import refusal
from tests.trainer_experiments import EXPERIMENT, plan_pairs

from touchline import api
from touchline.backends.torchtune.recipes import WRITTEN_KEYS
from touchline.core.errors import PlanDriftError
from touchline.core.finding import Severity
from touchline.data.user_config import UserConfig
from touchline.experiment.document import parse
from touchline.experiment.experiment import TrainConfig
from touchline.lint.local.recipes import read_recipe
from touchline.run.planning import read_planned, refuse_findings
from touchline.run.preparing import write_folders
from touchline.train.external import run_external
from touchline.train.run import Stop

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
    text = EXPERIMENT.replace("  validate_every_steps: 3\n", "")
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
