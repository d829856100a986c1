"""The report of a finished experiment, also with data and a metric of the user's own."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.api.finished import Finished
from tests.api.folders import environment, make_experiment, touchline
from tests.cases import some

pytestmark = pytest.mark.slow


SECTIONS = (
    "Overview",
    "Key findings",
    "Issues and notes",
    "Next steps",
    "Training results",
    "Checkpoint verification",
    "Storage",
)
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    return finished.copy(tmp_path / "exp")


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, flags=re.MULTILINE)


def test_a_finished_experiment_has_all_sections_with_real_numbers(finished: Finished) -> None:
    folder = finished.folder
    text = (folder / "RESULTS.md").read_text()
    assert [heading for heading in headings(text) if heading in SECTIONS] == list(SECTIONS)
    assert "All 3 runs are complete" in text
    for run in ("1M_rank2", "1M_rank4"):
        metrics = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        last = [row["loss"] for row in metrics if row["event"] == "validation"][-1]
        assert f"{last:.4g}" in text
    figures = re.findall(r"!\[[^]]*\]\((figures/[^)]+)\)", text)
    assert figures
    assert all((folder / figure).read_bytes().startswith(b"\x89PNG") for figure in figures)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 24
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_once_more_changes_nothing(copy: Path, call: Call) -> None:
    """What is printed as JSON is what the files say."""
    first = call("report", str(copy), "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)["report"]
    assert report["completed"] == len(report["runs"]) == 3
    text = (copy / "RESULTS.md").read_text()
    for run in some(report["runs"]):
        assert f"{100 * run['exact_match']['k'] / run['exact_match']['n']:.1f}%" in text
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert call("report", str(copy)).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def test_what_is_spoiled_is_said_and_the_rest_reported(copy: Path, call: Call) -> None:
    """A cut log of an evaluation, a truncated adapter, a run whose folder is gone, NaN losses: still a report."""
    (log,) = (copy / "1M_rank2" / "eval").glob("*.eval")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    assert not zipfile.is_zipfile(log)
    adapter = copy / "1M_rank4" / "epoch_1" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-100])
    shutil.rmtree(copy / "1M_base")
    metrics = copy / "1M_rank4" / "metrics.jsonl"
    metrics.write_text(
        re.sub(r'"event":"step",(.*?)"loss":[0-9.e-]+', r'"event":"step",\1"loss":NaN', metrics.read_text())
    )
    done = call("report", str(copy))
    assert done.returncode == 0, done.stderr
    text = (copy / "RESULTS.md").read_text()
    assert "1M_rank4" in text
    assert "truncated" in text or "bytes, expected" in text
    assert "All 3 runs are complete" not in text
    assert list(headings(text))[:2] == ["Overview", "Key findings"]


def test_before_anything_ran_a_report_says_so(tmp_path: Path, call: Call) -> None:
    folder = make_experiment(tmp_path / "exp")
    assert "touchline plan" in call("report", str(folder)).stderr
    assert call("plan", str(folder)).returncode == 0
    done = call("report", str(folder))
    assert done.returncode == 0, done.stderr
    assert "n/a (" in (folder / "RESULTS.md").read_text()
    assert not (folder / "samples.jsonl").exists()


def test_another_s_report_is_not_written_over(copy: Path, tmp_path: Path, call: Call) -> None:
    """A folder that touchline did not plan: read, reported elsewhere when asked, nothing of it changed."""
    for name in ("experiment.yaml", "plan.json", "RESULTS.md", "report.html", "samples.jsonl"):
        (copy / name).unlink()
    (copy / "RESULTS.md").write_text("# Mine\n")
    refused = call("report", str(copy))
    assert refused.returncode == 3
    assert "--out" in refused.stderr
    done = call("report", str(copy), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (copy / "RESULTS.md").read_text() == "# Mine\n"
    assert "1M_rank4" in (tmp_path / "out" / "RESULTS.md").read_text()


FIELDS = ("train_seconds", "peak_memory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(copy: Path, call: Call) -> None:
    copy.chmod(0o500)
    try:
        done = call("report", str(copy))
        assert done.returncode == 4
        assert "Traceback" not in done.stderr
    finally:
        copy.chmod(0o700)


def run_of(plan: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(run for run in plan["runs"] if run["name"] == name)
    return found


def width(figure: dict[str, Any]) -> float:
    """How far the interval's ends are apart, as the logarithm of their ratio."""
    return math.log(figure["high"] / figure["low"])


def test_a_first_plan_has_wide_intervals_and_says_that_nothing_was_measured(finished: Finished) -> None:
    run = run_of(finished.told["cold"], "1M_rank2")
    for field in FIELDS:
        assert run[field]["low"] < run[field]["value"] < run[field]["high"]
    assert finished.told["cold"]["evidence"] == []
    assert run["memory"]["verdict"] == "FITS"
    assert sum(part["value"] for part in run["time_parts"].values()) == pytest.approx(run["train_seconds"]["value"])


def test_a_probe_narrows_the_plan_and_what_was_planned_for_a_run_that_ran_stays(finished: Finished) -> None:
    before, after = (run_of(finished.told[name], "1M_rank2") for name in ("cold", "probed"))
    assert width(after["seconds_per_step"]) < width(before["seconds_per_step"])
    assert any(name.startswith("probe ") for name in finished.told["probed"]["evidence"])
    assert finished.told["changed"] == []


def test_finished_runs_teach_the_next_plan(finished: Finished) -> None:
    first, second = run_of(finished.told["cold"], "1M_rank4"), run_of(finished.told["next"], "1M_rank4")
    assert width(second["seconds_per_step"]) < width(first["seconds_per_step"])
    assert {"1M_rank2", "1M_rank4"} <= set(finished.told["next"]["evidence"])


def test_estimates_are_scored(finished: Finished) -> None:
    scores = finished.told["calibration"]
    assert {row["quantity"] for row in scores["planned"]} >= {"seconds per step, planned", "process memory, planned"}
    assert all(row["count"] == 2 for row in scores["planned"])
    assert sum(row["count"] for row in scores["left_out"] if row["rung"] is None) >= 3


def test_every_setting_that_was_not_given_is_named_with_its_reason(finished: Finished) -> None:
    named = {row["key"]: row for row in finished.told["cold"]["assumptions"]}
    assert {"train.lora.alpha", "train.packed", "train.micro_batch_size"} <= set(named)
    assert not {"train.epochs", "train.lora.rank", "train.learning_rate", "train.base_dtype"} & set(named)
    assert named["train.lora.alpha"]["value"] == "4, 8"
    assert named["train.micro_batch_size"]["value"] == "8"
    assert all(row["reason"] for row in named.values())


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
