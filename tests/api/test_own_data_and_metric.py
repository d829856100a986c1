"""Own data with labels from a CSV file to the report, and evaluated once more by other decoding: the real thing."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from tests.api.folders import environment, touchline
from tests.cases import some

pytestmark = pytest.mark.slow

YAML = """name: reviews
task: classification
models: [Tiny-1M-Instruct]
data: {path: reviews.csv, input: text, output: label}
train: {epochs: 10, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128, lora: {rank: 16}}
controls: [base]
evaluate: {batch_size: 16, max_new_tokens: 8}
compute: {gpus_per_run: 0}
"""
WORDS = {"pos": "good", "neg": "bad", "very pos": "top"}
METRIC = """from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import Score, mean, scorer, stderr
from inspect_ai.solver import generate


@scorer(metrics=[mean(), stderr()])
def closeness():
    async def score(state, target):
        return Score(value=(1 + len(state.output.completion)) / (9 + len(target.text)))
    return score


@task
def close(data):
    return Task(dataset=json_dataset(data), solver=generate(), scorer=closeness())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, models: Path) -> tuple[Path, dict[str, str]]:
    """A trained and evaluated experiment, and the environment of its commands."""
    base = tmp_path_factory.mktemp("labels")
    folder = base / "reviews"
    folder.mkdir()
    with (folder / "reviews.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        labels = [*WORDS] * 60
        writer.writerows((f"{WORDS[label]} {number}", label) for number, label in enumerate(labels))
    (folder / "experiment.yaml").write_text(YAML)
    env = environment(models, base / "cache", base / "history")
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    return folder, env


@pytest.fixture
def experiment(site: tuple[Path, dict[str, str]], tmp_path: Path) -> tuple[Path, dict[str, str]]:
    return shutil.copytree(site[0], tmp_path / "reviews"), site[1]


def results_of(folder: Path, env: dict[str, str]) -> dict[str, dict[str, object]]:
    done = touchline("results", str(folder), "--json", env=env)
    assert done.returncode == 0, done.stderr
    return {run["name"]: run for run in json.loads(done.stdout)["runs"]}


def test_labels_of_a_csv_file_are_learned_and_reported(site: tuple[Path, dict[str, str]]) -> None:
    """The plan names prompt, scores, labels and baseline; results and both reports the labels one by one."""
    folder, env = site
    plan = (folder / "runs_plan.md").read_text()
    for said in ("accuracy, exact match", "neg, pos, very pos", "Majority baseline"):
        assert said in plan
    runs = results_of(folder, env)
    base, run = runs["1M_base"], next(run for name, run in runs.items() if name != "1M_base")
    assert run["metric"] == base["metric"] == "accuracy"
    found = run["labels"]
    assert isinstance(found, dict)
    assert found["accuracy"] > 0.9 > found["majority"]
    assert sum(map(sum, found["confusion"])) == found["answers"] == 27
    assert {each["label"] for each in found["labels"]} == set(WORDS)
    report, page = (folder / "RESULTS.md").read_text(), (folder / "report.html").read_text()
    assert "| majority baseline | macro F1 |" in report
    assert re.search(r'class="num[^"]* hit h8"', page)


@pytest.mark.thorough
def test_other_decoding_is_announced_and_leaves_everything_as_it_was(experiment: tuple[Path, dict[str, str]]) -> None:
    """Logs and scores stay, each row says its decoding, and going back finds them again without evaluating."""
    folder, env = experiment
    logs = {path: path.read_bytes() for path in folder.glob("*/eval/*.eval")}
    scores = {path: path.read_bytes() for path in folder.glob("*/eval/*.scores.json")}
    assert len(logs) == len(scores) == 2
    planned = touchline("plan", str(folder), "evaluate.temperature=0.9", "evaluate.max_new_tokens=7", env=env)
    assert planned.returncode == 0, planned.stderr
    assert touchline("run", str(folder), env=env).returncode == 0
    assert {path: path.read_bytes() for path in logs} == logs
    assert {path: path.read_bytes() for path in scores} == scores
    assert len(list(folder.glob("*/eval/*.eval"))) == 4
    for run in some(results_of(folder, env).values()):
        (now,), (before,) = run["evaluations"], run["earlier_evaluations"]
        assert (now["decoding"].split(",")[0], before["decoding"].split(",")[0]) == ("temperature 0.9", "greedy")
    assert "decoding temperature 0.9" in (folder / "RESULTS.md").read_text()
    back = touchline("plan", str(folder), "evaluate.temperature=0", "evaluate.max_new_tokens=8", env=env)
    assert back.returncode == 0, back.stderr
    assert touchline("run", str(folder), env=env).returncode == 0
    assert len(list(folder.glob("*/eval/*.eval"))) == 4
    for run in some(results_of(folder, env).values()):
        (now,) = run["evaluations"]
        assert now["decoding"].startswith("greedy")


def test_a_metric_of_the_users_own_comes_first_everywhere(experiment: tuple[Path, dict[str, str]]) -> None:
    """In the plan before it runs, and after it in results and report; the trainings stay, and the folder may move."""
    folder, env = experiment
    (folder / "tasks").mkdir()
    (folder / "tasks" / "close.py").write_text(METRIC)
    prompt = json.loads((folder / "plan.json").read_text())["runs"][0]["data"]["prompt"]
    text = YAML.replace("classification", "tasks/close.py@close")
    text = text.replace("output: label}", f"output: label, prompt: {json.dumps(prompt)}}}")
    (folder / "experiment.yaml").write_text(text)
    planned = touchline("plan", str(folder), env=env)
    assert planned.returncode == 0, planned.stderr
    assert "closeness: mean, stderr" in (folder / "runs_plan.md").read_text()
    moved = folder.rename(folder.with_name("moved"))
    done = touchline("run", str(moved), env=env)
    assert done.returncode == 0, done.stderr
    for run in some(results_of(moved, env).values()):
        assert (run["metric"], run["exact_match"], run["labels"]) == ("closeness", None, None)
        score = run["score"]
        assert isinstance(score, dict)
        assert 0 < score["value"] < 1
        assert len(run["earlier_evaluations"]) == 1  # type: ignore[arg-type]
    report = (moved / "RESULTS.md").read_text()
    assert "task tasks/close.py@close" in report
    assert "| closeness (95% CI) |" in report
