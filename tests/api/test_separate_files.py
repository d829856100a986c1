"""Planning with a file each for training, validation and test: names, hashes, drift, and what a training reads."""

import json
import random
import shutil
import string
from pathlib import Path

import pytest
import yaml
from tests.api.folders import environment, touchline
from tests.cases import refusal

from touchline import api
from touchline.core.errors import PlanDriftError
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.run.jobs import evaluation_jobs, training_jobs
from touchline.run.loaded_plan import read_started

pytestmark = pytest.mark.planning

SEPARATE = """\
name: lengths
question: Does training on longer words help?
task: capitalization
models: [Tiny-1M-Instruct]
data:
  train: data/train_5.json
  validation: data/validation.json
  test: {5L: data/test_5.json, 9L: data/test_9.json}
train: {epochs: 1, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128, lora: {rank: 4}}
factors:
  data.train: [data/train_5.json, data/train_9.json]
controls: [base]
evaluate: {batch_size: 8, max_new_tokens: 12}
compute: {gpus_per_run: 0}
"""
FIRST, SECOND, BASE = "1M_rank4_train5", "1M_rank4_train9", "1M_base"


def words(count: int, length: int, seed: int) -> list[dict[str, str]]:
    generator = random.Random(f"{seed} {length}")
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choices(string.ascii_lowercase, k=length))] = None
    return [{"input": word, "output": word.capitalize()} for word in found]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def make_separate(folder: Path, text: str = SEPARATE) -> Path:
    """Write the experiment's folder with its data; nothing is planned yet."""
    for length in (5, 9):
        rows = words(52, length, 0)
        write(folder / "data" / f"train_{length}.json", rows[:40])
        write(folder / "data" / f"test_{length}.json", rows[40:])
    write(folder / "data" / "validation.json", words(8, 7, 0))
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    return folder


def digests(plan: Plan) -> dict[str, str]:
    return {run.name: run.digest for run in plan.runs}


def test_a_training_file_names_its_runs_and_the_base_is_evaluated_once(settings: UserConfig, tmp_path: Path) -> None:
    plan = api.plan(make_separate(tmp_path), settings).plan
    assert [run.name for run in plan.runs] == [FIRST, SECOND, BASE]
    assert [run.dataset for run in plan.runs[:2]] == ["data/train_5.json", "data/train_9.json"]
    assert [level.factor for level in plan.runs[2].levels] == ["models"]
    info = plan.datasets["data/train_9.json"]
    assert [(file.key, file.path) for file in info.files] == [
        ("data.train", "data/train_9.json"),
        ("data.validation", "data/validation.json"),
        ("data.test.5L", "data/test_5.json"),
        ("data.test.9L", "data/test_9.json"),
    ]
    assert [(each.name, each.num_examples) for each in info.test_sets] == [("5L", 12), ("9L", 12)]
    text = (tmp_path / "runs_plan.md").read_text(encoding="utf-8")
    for file in (file for each in plan.datasets.values() for file in each.files):
        assert file.sha256[:12] in text
    names = api.plan(make_separate(tmp_path, SEPARATE + "run_names: 'on_{data}'\n"), settings).plan.runs
    assert [run.name for run in names[:2]] == ["on_train5", "on_train9"]


def test_a_run_folder_has_the_files_that_its_training_reads(settings: UserConfig, tmp_path: Path) -> None:
    api.plan(make_separate(tmp_path), settings)
    api.prepare(tmp_path, settings)
    training = yaml.safe_load((tmp_path / SECOND / "finetune.yaml").read_text("utf-8"))["data"]
    evaluation = yaml.safe_load((tmp_path / SECOND / "eval.yaml").read_text("utf-8"))["data"]
    own = yaml.safe_load((tmp_path / SECOND / "setup_finetune.yaml").read_text("utf-8"))["data"]
    assert (training["train"], training["validation"]) == ("../data/train_9.json", "../data/validation.json")
    assert evaluation["test"] == {"5L": "../data/test_5.json", "9L": "../data/test_9.json"}
    assert own["test"] == {"5L": "data/test_5.json", "9L": "data/test_9.json"}
    # A test file is no part of a training, and no split is made.
    assert not {"path", "test", "train_fraction", "split_seed"} & training.keys()
    assert not {"path", "train_fraction", "split_seed"} & own.keys()


def test_a_moved_folder_has_the_same_plan(settings: UserConfig, tmp_path: Path) -> None:
    before = api.plan(make_separate(tmp_path / "a"), settings).plan
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "b" / "plan.json").read_text("utf-8"))["datasets"])
    assert digests(api.plan(tmp_path / "b", settings).plan) == digests(before)


def test_files_outside_the_folder_are_found_from_a_run(settings: UserConfig, tmp_path: Path) -> None:
    folder = make_separate(tmp_path / "exp")
    shutil.move(folder / "data", tmp_path / "data")
    (folder / "experiment.yaml").write_text(SEPARATE.replace("data/", "../data/"), encoding="utf-8")
    api.plan(folder, settings)
    api.prepare(folder, settings)
    training = yaml.safe_load((folder / FIRST / "finetune.yaml").read_text("utf-8"))["data"]
    assert (folder / FIRST / training["train"]).samefile(tmp_path / "data" / "train_5.json")
    assert (folder / FIRST / training["validation"]).samefile(tmp_path / "data" / "validation.json")


@pytest.mark.parametrize(
    ("file", "changes"),
    [("train_9.json", {SECOND}), ("validation.json", {FIRST, SECOND}), ("test_5.json", set()), ("test_9.json", set())],
)
def test_other_content_of_a_file_changes_the_trainings_that_read_it(
    settings: UserConfig, tmp_path: Path, file: str, changes: set[str]
) -> None:
    before = api.plan(make_separate(tmp_path), settings).plan
    write(tmp_path / "data" / file, words(12, 11, 3))
    after = api.plan(tmp_path, settings).plan
    changed = {name for name, digest in digests(before).items() if digests(after)[name] != digest}
    assert changed - {BASE} == changes
    assert json.loads((tmp_path / "plan.json").read_text("utf-8"))["datasets"] != {}
    hashes = [[file.sha256 for file in plan.datasets["data/train_9.json"].files] for plan in (before, after)]
    assert sum(one != other for one, other in zip(*hashes, strict=True)) == 1


def test_a_further_test_set_changes_no_training(settings: UserConfig, tmp_path: Path) -> None:
    before = api.plan(make_separate(tmp_path), settings).plan
    write(tmp_path / "data" / "test_11.json", words(5, 11, 0))
    text = SEPARATE.replace("9L: data/test_9.json", "9L: data/test_9.json, 11L: data/test_11.json")
    (tmp_path / "experiment.yaml").write_text(text, encoding="utf-8")
    after = api.plan(tmp_path, settings).plan
    assert {name: digests(after)[name] for name in (FIRST, SECOND)} == {
        name: digests(before)[name] for name in (FIRST, SECOND)
    }


@pytest.mark.parametrize(("file", "key"), [("train_9.json", "data.train"), ("validation.json", "data.validation")])
def test_a_started_run_refuses_another_file_by_its_key(
    settings: UserConfig, tmp_path: Path, file: str, key: str
) -> None:
    api.plan(make_separate(tmp_path), settings)
    api.prepare(tmp_path, settings)
    (tmp_path / SECOND / "metrics.jsonl").write_text("", encoding="utf-8")
    write(tmp_path / "data" / file, words(40, 11, 3))
    with pytest.raises(PlanDriftError, match=f"the file of {key} changed"):
        api.plan(tmp_path, settings)


def test_a_training_file_has_one_validation_file(settings: UserConfig, tmp_path: Path) -> None:
    levels = "data.train: [data/train_5.json, data/train_9.json]"
    text = SEPARATE.replace(levels, "data.validation: [data/validation.json, data/test_9.json]")
    caught = refusal(api.plan, make_separate(tmp_path, text.replace(", 9L: data/test_9.json", "")), settings)
    said = "is used with data/validation.json and with data/test_9.json"
    assert any(each.code == "EX003" and said in each.message for each in caught.findings)


def test_without_test_rows_trainings_are_planned_where_nothing_is_evaluated(
    settings: UserConfig, tmp_path: Path
) -> None:
    text = SEPARATE.replace("  test: {5L: data/test_5.json, 9L: data/test_9.json}\n", "")
    folder = make_separate(tmp_path, text.replace("controls: [base]\n", "").replace("{batch_size: 8", "{epochs: []"))
    plan = api.plan(folder, settings).plan
    assert [run.name for run in plan.runs] == [FIRST, SECOND]
    assert [split.name for split in plan.datasets["data/train_5.json"].splits] == ["train", "validation"]
    # No job evaluates it either: `place` refused for want of their time, and `submit` started an empty job per run.
    api.prepare(folder, settings)
    listed = (folder / "submit_all.sh").read_text(encoding="utf-8")
    assert (f"\ntrain {FIRST}" in listed, f"\nevaluate {FIRST}" in listed) == (True, False)
    planned = read_started(folder)
    assert (len(training_jobs(planned, plan.runs)), evaluation_jobs(planned, plan.runs)) == (2, [])


def test_stages_have_files_of_their_own(settings: UserConfig, tmp_path: Path) -> None:
    text = SEPARATE.replace("factors:\n  data.train: [data/train_5.json, data/train_9.json]\n", "") + (
        "stages:\n- {name: short}\n"
        "- {name: long, parent: short, continue: adapter,\n"
        "   data: {train: data/train_9.json, validation: data/validation_9.json}}\n"
    )
    write(tmp_path / "data" / "validation_9.json", words(3, 10, 0))
    plan = api.plan(make_separate(tmp_path, text), settings).plan
    counts = {run.name: [each.num_examples for each in plan.datasets[run.dataset].splits] for run in plan.runs}
    assert counts == {"1M_rank4_short": [40, 8, 12], "1M_rank4_long": [40, 3, 12], "1M_base": [40, 8, 12]}


def test_other_controls_go_with_separate_files(settings: UserConfig, tmp_path: Path) -> None:
    text = SEPARATE.replace("controls: [base]", "controls: [base, noop, shuffled]")
    plan = api.plan(make_separate(tmp_path, text), settings).plan
    assert [run.name for run in plan.runs if run.control is not None] == [
        "1M_shuffled_train5",
        "1M_shuffled_train9",
        "1M_base",
        "1M_noop",
    ]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_trained_experiment_moves_publishes_reproduces_and_refuses_other_files(tmp_path: Path, models: Path) -> None:
    """Each run trains on its file and answers the first test set."""
    folder, env = make_separate(tmp_path / "lengths"), environment(models, tmp_path / "cache", tmp_path / "history")
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    answers = [row["output"] for row in json.loads((folder / "data" / "test_5.json").read_text("utf-8"))]
    for name in (FIRST, SECOND, BASE):
        scores = [json.loads(path.read_text("utf-8")) for path in (folder / name / "eval").glob("*.scores.json")]
        assert answers in [[item["target"] for item in each["samples"]] for each in scores]
    report = (folder / "RESULTS.md").read_text(encoding="utf-8")
    assert all(f"data/{file.name}" in report for file in (folder / "data").iterdir())
    copy = shutil.copytree(folder, tmp_path / "moved")
    again = touchline("run", str(copy), env=env)
    assert (again.returncode, "started" in again.stderr) == (0, False)
    published = touchline("publish", str(copy), "--run", SECOND, env=env)
    assert published.returncode == 0, published.stderr
    card = (copy / "published" / SECOND / "README.md").read_text(encoding="utf-8")
    assert all(file in card for file in ("train_9.json", "validation.json"))
    same = touchline("reproduce", str(copy), "--run", SECOND, env=env)
    assert same.returncode == 0, same.stdout + same.stderr
    for file in ("train_9.json", "validation.json", "test_5.json", "test_9.json"):
        before = (copy / "data" / file).read_text()
        write(copy / "data" / file, words(40, 11, 5))
        refused = touchline("evaluate", str(copy), env=env)
        assert refused.returncode == 3
        assert f"data/{file}" in refused.stderr
        (copy / "data" / file).write_text(before)
