"""Several test sets with names, from experiment.yaml to the report: three training sets on three test sets."""

import json
import re
import runpy
import string
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from pydantic import TypeAdapter
from tests.api.folders import command, touchline
from tests.api.harm import kill_everything
from tests.cases import refusal

from touchline import api
from touchline.core.quantity import Missing, Quantity
from touchline.data.evaluations import evaluation_name, read_evaluation_config, settings_sha256
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.data.user_config import UserConfig
from touchline.evaluate.wanted import find_pending_evaluations
from touchline.experiment.evaluation import EvaluationConfig, EvaluationTask
from touchline.experiment.plan import Plan
from touchline.lint.local.inputs import errors_of
from touchline.plan.tasks import set_items, task_notes, task_rows
from touchline.report.compared_settings import planned_settings

pytestmark = pytest.mark.planning

SETS = {"5L": (5, 20), "9L": (9, 16), "13L": (13, 12)}
"""Letters of a set's words, and its items."""
ANSWERS = {"5L": "a", "9L": "b", "13L": "c"}
NAMED = "{5L: data/5L_test.json, 9L: data/9L_test.json, 13L: data/13L_test.json}"
EXPERIMENT = """\
name: cross
task: exact_match
models: [Tiny-1M-Instruct]
data:
  train: data/5L_train.json
  test: TEST
factors:
  data.train: [data/5L_train.json, data/9L_train.json, data/13L_train.json]
seeds: [1, 2]
train:
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 8
  max_seq_len: 64
  learning_rate: 1e-2
  base_dtype: float32
  lora: {rank: 4}
controls: [base]
evaluate: {max_new_tokens: 3}
compute: {gpu: cpu, cohorts: always}
"""
RECOMPUTE = Path(__file__).parents[2] / "docs" / "scripts" / "recompute.py"


def make(folder: Path, test: str = NAMED, evaluate: str = "{max_new_tokens: 3}") -> Path:
    """Training and test files of three lengths of words. Three in four answers of a set are its own letter."""
    (folder / "data").mkdir(parents=True)
    dice = Random(7)
    for name, (letters, items) in SETS.items():
        rows = [
            {
                "input": "".join(dice.choices(string.ascii_lowercase, k=letters)),
                "output": ANSWERS[name] if number % 4 else "z",
            }
            for number in range(64)
        ]
        (folder / "data" / f"{name}_train.json").write_text(json.dumps(rows[:40]))
        (folder / "data" / f"{name}_test.json").write_text(json.dumps(rows[40 : 40 + items]))
    text = EXPERIMENT.replace("TEST", test).replace("{max_new_tokens: 3}", evaluate)
    (folder / "experiment.yaml").write_text(text)
    return folder


def planned(folder: Path, settings: UserConfig, test: str = NAMED) -> Path:
    api.plan(make(folder, test), settings)
    api.prepare(folder, settings)
    return folder


def write_scores(run: Path, config: EvaluationConfig, task: EvaluationTask | None) -> None:
    """A finished evaluation of a control, with one right answer."""
    name = evaluation_name(config.task, "base", config.set_of(task))
    record = EvaluationRecord(
        experiment=config.experiment, run=config.run, task=config.task, checkpoint="base", log=f"{name}.eval",
        log_sha256="0" * 64, adapter_sha256=None, base_sha256=config.model.weights_sha256,
        data_sha256=config.on(task).data_sha256, settings_sha256=settings_sha256(config, task), decoding="greedy",
        seconds=3.0, samples=(SampleScore(id="0", target="A", output="A", exact=True, match=True),),
        test_set=config.set_of(task),
    )  # fmt: skip
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / f"{name}.eval").write_bytes(b"log")
    (run / "eval" / f"{name}.scores.json").write_bytes(TypeAdapter(EvaluationRecord).dump_json(record))


def value(measured: object) -> float:
    assert isinstance(measured, Quantity)
    return measured.value


def scores(folder: Path) -> dict[Path, int]:
    """Every scores file, with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/eval/*.scores.json")}


def memory(plan: Plan) -> float:
    found = plan.runs[0].evaluate_memory
    assert not isinstance(found, Missing)
    return found.allocated.value


def test_a_plan_counts_every_set_in_items_time_memory_and_disk(tmp_path: Path, settings: UserConfig) -> None:
    """The longest prompt of any set decides on the memory; where nothing is evaluated no set is asked."""
    one = api.plan(make(tmp_path / "one", "{5L: data/5L_test.json}"), settings).plan
    three = api.plan(make(tmp_path / "three"), settings).plan
    assert set_items(three) == [("5L", 20), ("9L", 16), ("13L", 12)]
    assert [(row[0], row[3]) for row in task_rows(three)] == [
        ("exact_match", "20"),
        ("exact_match on 9L", "16"),
        ("exact_match on 13L", "12"),
    ]
    assert "one family of their own, of 4 contrasts" in "\n".join(task_notes(three))
    for more, less in zip(three.runs[:1], one.runs[:1], strict=True):
        assert value(more.evaluate_seconds) > value(less.evaluate_seconds)
        assert value(more.disk) > value(less.disk)
    assert memory(three) > memory(one)
    text = (tmp_path / "three" / "experiment.yaml").read_text().replace("controls: [base]\n", "")
    nothing = make(tmp_path / "none")
    (nothing / "experiment.yaml").write_text(text.replace("{max_new_tokens: 3}", "{max_new_tokens: 3, epochs: []}"))
    assert not any("Test sets" in note for note in task_notes(api.plan(nothing, settings).plan))
    assert [run.digest for run in three.runs] == [run.digest for run in one.runs]


def test_each_set_is_planned_with_its_hash_and_asked_as_if_it_were_the_only_one(
    tmp_path: Path, settings: UserConfig
) -> None:
    folder = planned(tmp_path / "three", settings)
    config = read_evaluation_config(folder / "1M_base" / "eval.yaml")
    assert config.first_set == "5L"
    assert [task.test_set for task in config.tasks] == ["9L", "13L"]
    assert len({config.data_sha256, *(task.data_sha256 for task in config.tasks)}) == 3
    alone = planned(tmp_path / "alone", settings, "data/9L_test.json")
    single = read_evaluation_config(alone / "1M_base" / "eval.yaml")
    single = replace(single, date=config.date)
    assert settings_sha256(config, config.tasks[0]) == settings_sha256(single)
    assert settings_sha256(config) != settings_sha256(single)
    script = (folder / "1M_base" / "eval.py").read_text()
    compile(script, "eval.py", "exec")
    assert "@task(name='exact_match-9L')" in script
    assert "run_task(Path(__file__).parent, 'exact_match on 13L')" in script
    assert "test_set" not in (alone / "1M_base" / "eval.yaml").read_text()


def test_further_tasks_ask_the_set_named_first(tmp_path: Path, settings: UserConfig) -> None:
    folder = make(tmp_path / "x", evaluate="{max_new_tokens: 3, tasks: [choice]}")
    found = api.plan(folder, settings).plan
    assert "Further tasks ask 5L alone" in "\n".join(task_notes(found))
    api.prepare(folder, settings)
    config = read_evaluation_config(folder / "1M_base" / "eval.yaml")
    assert [task.label for task in config.tasks] == ["exact_match on 9L", "exact_match on 13L", "choice"]
    assert config.on(config.tasks[2]).data.test == config.on(None).data.test
    assert config.on(config.tasks[0]).data.test != config.on(None).data.test


@pytest.mark.slow
def test_a_set_with_fewer_items_than_are_asked_is_asked_whole(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plan says, and not refused when all is trained."""
    from touchline.evaluate.inspect_task import planned_items

    folder = make(tmp_path / "x", evaluate="{max_new_tokens: 3, samples: 14}")
    assert set_items(api.plan(folder, settings).plan) == [("5L", 14), ("9L", 14), ("13L", 12)]
    api.prepare(folder, settings)
    monkeypatch.chdir(folder / "1M_base")
    config = read_evaluation_config(Path("eval.yaml"))
    assert [len(planned_items(config.on(task))) for task in (None, *config.tasks)] == [14, 14, 12]


def test_a_task_with_items_of_its_own_asks_no_test_set(tmp_path: Path, settings: UserConfig) -> None:
    """Its items would count once as each set."""
    folder = make(tmp_path / "x")
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("task: exact_match", "task: mine.py"))
    (folder / "mine.py").write_text("from inspect_ai import task\n\n\n@task\ndef mine():\n    return None\n")
    (finding,) = errors_of(refusal(api.plan, folder, settings).findings)
    assert finding.code == "EX015"
    assert "5L, 9L, 13L" in finding.message
    (folder / "mine.py").write_text("from inspect_ai import task\n\n\n@task\ndef mine(data):\n    return None\n")
    assert api.plan(folder, settings).plan.own_task is not None


def test_a_strategy_tests_no_levels_on_the_other_sets(tmp_path: Path, settings: UserConfig) -> None:
    """The report has none there, so the plan promises no family."""
    folder = make(tmp_path / "x")
    text = (folder / "experiment.yaml").read_text().replace("seeds: [1, 2]", "seeds: [1]")
    text = text.replace(
        "  data.train: [data/5L_train.json, data/9L_train.json, data/13L_train.json]", "  train.lora.rank: [2, 4]"
    )
    text += "strategy: {explore: {reference: {train.lora.rank: 2}}, confirm: {seeds: [2, 3]}}\n"
    text = text.replace("  test:", "  validation: data/validation.json\n  test:")
    (folder / "experiment.yaml").write_text(text.replace("lora: {rank: 4}", "validate_every_steps: 2"))
    rows = [{"input": f"valid{number}", "output": "a"} for number in range(9)]
    (folder / "data" / "validation.json").write_text(json.dumps(rows))
    plan = api.plan(folder, settings).plan
    assert plan.strategy is not None
    assert "family of their own" not in "\n".join(task_notes(plan))


def test_what_is_no_longer_asked_is_not_announced_as_asked_again(tmp_path: Path, settings: UserConfig) -> None:
    folder = planned(tmp_path / "x", settings)
    config = read_evaluation_config(folder / "1M_base" / "eval.yaml")
    for task in (None, *config.tasks):
        write_scores(folder / "1M_base", config, task)
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace(", 13L: data/13L_test.json", ""))
    (kept,) = api.plan(folder, settings).plan.kept_evaluations
    assert kept == "1 evaluation on exact_match on 13L, no longer in the plan, stays with logs and scores"


def test_a_control_is_compared_whatever_the_others_train_on(tmp_path: Path, settings: UserConfig) -> None:
    """With test files it answers the same items in both experiments."""
    folders = [make(tmp_path / name) for name in ("one", "two")]
    text = (folders[1] / "experiment.yaml").read_text()
    text = text.replace("train: data/5L", "train: data/9L").replace("[data/5L_train.json, ", "[")
    (folders[1] / "experiment.yaml").write_text(text)
    plans = [api.plan(folder, settings).plan for folder in folders]
    one, two = (planned_settings(plan, next(run for run in plan.runs if run.train is None)) for plan in plans)
    assert one == two
    assert not {"data.train", "train split (sha256)"} & one.keys()
    found = planned_settings(plans[0], plans[0].runs[0])
    assert {key: each for key, each in found.items() if key.startswith("data.test")} == {
        "data.test": "-",
        **{f"data.test.{name}": f"{name}_test.json" for name in SETS},
    }


def test_answers_of_a_set_that_the_limit_truncates_are_found(tmp_path: Path, settings: UserConfig) -> None:
    """Though every training answer is short enough."""
    folder = make(tmp_path / "x")
    long = [{"input": f"word{number}", "output": f"abcdefghijk{number % 9}"} for number in range(60)]
    (folder / "data" / "13L_test.json").write_text(json.dumps(long))
    (finding,) = errors_of(refusal(api.plan, folder, settings).findings)
    assert finding.code == "EX181"
    assert all(part in finding.message for part in ("62% of the test answers", "up to 12"))


def test_a_set_that_one_run_was_trained_on_is_found_for_that_run(tmp_path: Path, settings: UserConfig) -> None:
    """The same set is clean for the others."""
    folder = make(tmp_path / "x")
    place = folder / "data" / "9L_train.json"
    place.write_text(
        json.dumps(json.loads(place.read_text()) + json.loads((folder / "data" / "13L_test.json").read_text()))
    )
    (finding,) = errors_of(refusal(api.plan, folder, settings).findings)
    assert finding.code == "DA106"
    assert "12 prompts are both in train (9L_train.json) and in test 13L (13L_test.json)" in finding.message
    assert finding.runs
    assert all("9L" in run for run in finding.runs)


def test_one_set_under_two_names_is_refused(tmp_path: Path, settings: UserConfig) -> None:
    folder = make(tmp_path / "x", "{5L: data/5L_test.json, again: data/copy.json}")
    (folder / "data" / "copy.json").write_bytes((folder / "data" / "5L_test.json").read_bytes())
    caught = refusal(api.plan, folder, settings)
    assert "the test sets 5L and again have the same rows" in str([each.message for each in caught.findings])


@pytest.mark.slow
@pytest.mark.thorough
def test_three_training_sets_on_three_test_sets(tmp_path: Path, env: dict[str, str]) -> None:
    """Really trained, killed between two sets, resumed with the missing ones, to the matrix of the report."""
    folder = make(tmp_path / "exp")
    process = subprocess.Popen(
        command("run", str(folder), "--no-probe"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while len(kept := scores(folder)) < 7:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_everything(process)
    kept = scores(folder)
    assert {re.sub(r"_epoch_1|_base", "", path.name.split(".")[0]) for path in kept} >= {"exact_match-5L"}
    assert len(kept) < 21, "the kill came too late"
    waiting = [run for run in folder.iterdir() if (run / "eval.yaml").is_file()]
    assert any(find_pending_evaluations(folder, run.name).checkpoints for run in waiting)
    unfinished = {run.name for run in waiting if len(list((run / "eval").glob("*.scores.json"))) < 3}
    statuses = json.loads(touchline("status", str(folder), "--json", env=env).stdout)["runs"]
    assert all(run["status"] != "completed" for run in statuses if run["name"] in unfinished)
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    assert scores(folder).items() >= kept.items()
    assert sorted(path.name for path in scores(folder) if path.parent.parent.name == "1M_base") == [
        f"exact_match-{name}_base.scores.json" for name in ("13L", "5L", "9L")
    ]

    answer = touchline("results", str(folder), "--json", env=env)
    (folder / "results.json").write_text(answer.stdout)
    matrix = json.loads(answer.stdout)["test_sets"]
    cells = {
        (row["training_set"], name): cell["value"] for row in matrix["rows"] for name, cell in row["scores"].items()
    }
    for name in SETS:
        assert cells[f"data/{name}_train.json", name] > 0.5
        assert all(cells[f"data/{name}_train.json", other] < 0.5 for other in SETS if other != name)
        assert cells["none (base model)", name] < 0.5
    text = (folder / "RESULTS.md").read_text()
    assert "5L, n = 20 | 9L, n = 16 | 13L, n = 12" in text
    code = RECOMPUTE.read_text(encoding="utf-8")
    (tmp_path / "recompute.py").write_text(code)
    main = runpy.run_path(str(tmp_path / "recompute.py"))["main"]
    assert main(str(folder / "samples.jsonl"), str(folder / "results.json")) == 0

    rows = json.loads((folder / "data" / "13L_test.json").read_text())
    (folder / "data" / "13L_test.json").write_text(json.dumps([*rows[1:], {"input": "another", "output": "c"}]))
    for path in (folder / "1M_base" / "eval").glob("*L_base*"):
        path.unlink()
    refused = touchline("evaluate", str(folder), env=env)
    assert refused.returncode == 3
    assert "13L_test.json' changed since planning" in refused.stderr
    # What a job finds that was queued before.
    job = [sys.executable, "-m", "touchline.evaluate", "--experiment", str(folder), "--run", "1M_base"]
    ended = subprocess.run(job, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "13L_test.json' differs from the planned one" in ended.stderr
    made = sorted(path.name for path in scores(folder) if path.parent.parent.name == "1M_base")
    assert made == ["exact_match-5L_base.scores.json", "exact_match-9L_base.scores.json"]
