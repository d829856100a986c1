"""General ability: what the harness is told, what is kept of it, and what happens when it fails.

The harness itself needs an environment of some hundred packages. Here a program of its name writes what version 0.4.13
wrote for the same models; where TOUCHLINE_LM_EVAL_PYTHON names a real one, one test lets it score the tiny model.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.evaluate.tiny_evaluation import ALL_JOBS, make_adapter, make_experiment, write_request, write_run

from touchline.core.errors import HostError, RunsFailedError
from touchline.core.files import sha256_file
from touchline.core.status import EXIT_STOPPED
from touchline.data.benchmarks import read_general_marker
from touchline.data.evaluations import read_evaluation_config
from touchline.evaluate.general import LM_EVAL_PYTHON
from touchline.evaluate.process import evaluate
from touchline.evaluate.wanted import EvaluationRequest, RequestedJob, find_pending_evaluations
from touchline.experiment.experiment import EvaluateConfig, GeneralConfig
from touchline.results.harness import read_items, read_results

# Inspect leaves its event loop's streams to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")

FIXTURE = Path(__file__).parent.parent / "fixtures" / "lm_eval"
PROGRAM = """#!{python}
import json, os, pathlib, shutil, sys, time
with open({calls!r}, "a") as stream:
    config = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
    offline = {{name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN")}}
    stream.write(json.dumps({{"words": sys.argv[1:], "config": config, "cwd": os.getcwd(), **offline}}) + "\\n")
{body}
out = pathlib.Path(config["output_path"]) / "tiny"
shutil.copytree({fixture!r}, out)
print("100%")
"""
TASKS = GeneralConfig(tasks=("sums",), limit=24, num_fewshot=2, chat_template=True)


def install(folder: Path, body: str = "") -> Path:
    """An environment with a program called lm_eval; its interpreter is what the variable names."""
    program = folder / "environment" / "bin" / "lm_eval"
    program.parent.mkdir(parents=True, exist_ok=True)
    fixture = str(FIXTURE / "tiny_rank4" / "general" / "epoch_0")
    calls = str(folder / "calls.jsonl")
    program.write_text(PROGRAM.format(python=sys.executable, calls=calls, body=body, fixture=fixture))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program.parent / "python"


def calls(folder: Path) -> list[dict[str, object]]:
    """How the program was called."""
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def make(root: Path, general: GeneralConfig = TASKS) -> Path:
    """The tiny experiment, each training of two epochs, of which the last is asked for."""
    evaluate = EvaluateConfig(batch_size=8, max_new_tokens=4, samples=8, general=general)
    experiment = make_experiment(root, items=8, evaluate=evaluate)
    for run in ("tiny_rank4", "tiny_rank8"):
        config = read_evaluation_config(experiment / run / "eval.yaml")
        write_run(experiment, replace(config, train_epochs=1))
    return experiment


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | None], None]:
    """Say which environment has the harness; none: no variable, and a path on which there is none."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PATH", "/usr/bin")

    def say(python: Path | None) -> None:
        if python is None:
            monkeypatch.delenv(LM_EVAL_PYTHON, raising=False)
        else:
            monkeypatch.setenv(LM_EVAL_PYTHON, str(python))

    return say


def score(experiment: Path, *jobs: tuple[str, str]) -> None:
    """What the process does, in this one, which has loaded the frameworks."""
    requested = tuple(RequestedJob(run=run, checkpoint=checkpoint) for run, checkpoint in jobs)
    evaluate(experiment, EvaluationRequest(jobs=requested, dtype="float32"))


def test_the_base_and_the_last_checkpoints_are_scored_once(tmp_path: Path, found: Callable[[Path], None]) -> None:
    """Offline, without secrets, in the experiment's folder; what it wrote is kept under its own names."""
    experiment = make(tmp_path / "a, b=c")
    found(install(tmp_path))
    make_adapter(tmp_path / "a, b=c" / "models" / "tiny", experiment / "tiny_rank8" / "epoch_1", rank=2)
    score(experiment, *ALL_JOBS, ("tiny_rank8", "epoch_1"))
    told = calls(tmp_path)
    assert len(told) == 3
    base = str((tmp_path / "a, b=c" / "models" / "tiny").resolve())
    for call, adapter in zip(told, (None, "tiny_rank4/epoch_0", "tiny_rank8/epoch_0"), strict=True):
        config = call["config"]
        assert isinstance(config, dict)
        peft = {} if adapter is None else {"peft": str((experiment / adapter).resolve())}
        assert config["model_args"] == {"pretrained": base, "dtype": "float32", **peft}
        assert (config["tasks"], config["limit"], config["num_fewshot"]) == (["sums"], 24, 2)
        assert (config["apply_chat_template"], config["log_samples"], config["batch_size"]) == (True, True, 8)
        assert "trust_remote_code" not in json.dumps(config)
        assert (call["HF_HUB_OFFLINE"], call["HF_DATASETS_OFFLINE"], call["HF_TOKEN"]) == ("1", "1", None)
        assert call["cwd"] == str(experiment.resolve())
    folder = experiment / "tiny_rank4" / "general"
    marker = read_general_marker(folder / "epoch_0.touchline.json")
    assert marker is not None
    assert marker.adapter_sha256 == sha256_file(experiment / "tiny_rank4" / "epoch_0" / "adapter_model.safetensors")
    results = read_results(folder / "epoch_0" / marker.results)
    assert read_items(folder / "epoch_0" / marker.results, results.scores[0]) is not None
    assert (folder / "epoch_0" / "lm_eval.log").read_text() == "100%\n"
    assert list((experiment / ".touchline" / "evaluating").glob("*/")) == []
    score(experiment, *ALL_JOBS)
    assert len(calls(tmp_path)) == 3
    assert find_pending_evaluations(experiment, "tiny_base").checkpoints == ()


def test_other_tasks_are_scored_anew_and_answers_are_not(tmp_path: Path, found: Callable[[Path], None]) -> None:
    """The harness's settings are no settings of Inspect's evaluation."""
    experiment = make(tmp_path)
    found(install(tmp_path))
    score(experiment, ("tiny_base", "base"))
    scores = next((experiment / "tiny_base" / "eval").glob("*.scores.json"))
    before = scores.stat().st_mtime_ns
    config = read_evaluation_config(experiment / "tiny_base" / "eval.yaml")
    other = replace(config.evaluate, general=replace(TASKS, limit=None))
    write_run(experiment, replace(config, evaluate=other))
    assert find_pending_evaluations(experiment, "tiny_base").checkpoints == ("base",)
    score(experiment, ("tiny_base", "base"))
    assert len(calls(tmp_path)) == 2
    assert scores.stat().st_mtime_ns == before


def test_without_the_harness_all_else_is_done_first(tmp_path: Path, found: Callable[[Path | None], None]) -> None:
    """Then it is said what is missing and how to get it, as a fault of the environment."""
    experiment = make(tmp_path)
    for python in (None, tmp_path / "nowhere" / "python"):
        found(python)
        with pytest.raises(HostError, match="lm_eval is not here") as caught:
            score(experiment, ("tiny_base", "base"), ("tiny_rank4", "epoch_0"))
        assert LM_EVAL_PYTHON in str(caught.value.expected)
        assert len(list(experiment.glob("*/eval/*.scores.json"))) == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('Tasks not found: sums')", "ended with code 1: ValueError: Tasks not found: sums"),
        ("sys.exit(0)", "ended with code 0"),
        ("os.kill(os.getpid(), 9)", "ended with code -9"),
    ],
)
def test_a_harness_that_fails_is_told_in_its_own_words(
    body: str, said: str, tmp_path: Path, found: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The next start tries again; nothing half-made is left, and no other checkpoint is held up."""
    experiment = make(tmp_path)
    found(install(tmp_path, body))
    with pytest.raises(RunsFailedError, match="tiny_base base: general ability, tiny_rank4 epoch_0: general ability"):
        score(experiment, ("tiny_base", "base"), ("tiny_rank4", "epoch_0"))
    assert capsys.readouterr().err.count(said) == 2
    assert not (experiment / "tiny_base" / "general").exists()
    install(tmp_path)
    score(experiment, ("tiny_base", "base"))
    assert (experiment / "tiny_base" / "general" / "base.touchline.json").is_file()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A job that is told to stop leaves no program behind."""
    pid_file = tmp_path / "pid"
    body = f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(300)"
    experiment, python = make(tmp_path), install(tmp_path, body)
    request = write_request(experiment, ("tiny_base", "base"))
    words = [sys.executable, "-m", "touchline.evaluate", "--experiment", str(experiment), "--request", str(request)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", LM_EVAL_PYTHON: str(python)}
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(pid_file.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == EXIT_STOPPED
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(LM_EVAL_PYTHON not in os.environ, reason=f"{LM_EVAL_PYTHON} names no environment with lm_eval")
def test_the_real_harness_scores_the_tiny_model(tmp_path: Path) -> None:
    """A task of one's own, with data of one's own, without a network."""
    general = GeneralConfig(tasks=("sums",), include_path="tasks", limit=6)
    experiment = make(tmp_path, general)
    (experiment / "tasks").mkdir()
    rows = [{"question": f"{n} + 1 =", "choices": [str(n + 1), str(n)], "label": 0} for n in range(8)]
    (experiment / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (experiment / "tasks" / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: sums.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_target: label\ndoc_to_choice: choices\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    score(experiment, ("tiny_rank4", "epoch_0"))
    (path,) = (experiment / "tiny_rank4" / "general" / "epoch_0").glob("results_*.json")
    results = read_results(path)
    assert [(score.task, score.metric) for score in results.scores] == [("sums", "acc")]
    items = read_items(path, results.scores[0])
    assert items is not None
    assert len(items) == 6
