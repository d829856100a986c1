"""The evaluation process and Inspect's own command, on the tiny model, with kills."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log
from tests.cases import some
from tests.evaluate import tiny_evaluation as tiny
from tests.tiers import THOROUGH

from touchline.core.errors import InputError, PlanDriftError
from touchline.core.status import EXIT_PARENT_NOT_READY
from touchline.data.evaluations import (
    finished_evaluation,
    read_asked,
    read_evaluation_config,
    read_evaluations,
    settings_sha256,
)
from touchline.data.models import load_renderer, read_model
from touchline.evaluate.inspect_task import planned_items
from touchline.evaluate.process import SCRATCH, evaluate
from touchline.evaluate.wanted import read_request
from touchline.experiment.tasks.ready_made import get_task

# Inspect leaves its event loop's streams to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"), pytest.mark.slow]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of which everything is evaluated, by the process as it is started."""
    experiment = tiny.make_experiment(tmp_path_factory.mktemp("evaluated") / "sp ace 'quote'", items=20)
    done = run_process(experiment, tiny.write_request(experiment, *tiny.ALL_JOBS))
    assert done.returncode == 0, done.stderr
    assert "tiny_rank4 epoch_0: 20/20" in done.stderr.splitlines()
    assert done.stdout == ""
    return experiment


def command(experiment: Path, request: Path) -> list[str]:
    return [sys.executable, "-m", "touchline.evaluate", "--experiment", str(experiment), "--request", str(request)]


def run_process(experiment: Path, request: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(experiment, request),
        env=ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_one(experiment: Path, run: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "touchline.evaluate", "--experiment", str(experiment), "--run", run]
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def files(experiment: Path) -> dict[str, tuple[int, int]]:
    """Everything but locks: path to (modified, size)."""
    found = [path for path in experiment.rglob("*") if path.is_file() and path.suffix not in (".lock", ".job")]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


@pytest.mark.parametrize(("run", "checkpoint"), tiny.ALL_JOBS)
def test_each_job_leaves_a_genuine_log_and_its_scores(evaluated: Path, run: str, checkpoint: str) -> None:
    """The log opens, tells what was evaluated, and holds exactly the scores beside it."""
    config = read_evaluation_config(evaluated / run / "eval.yaml")
    (record,) = read_evaluations(evaluated / run)
    log = read_eval_log(str(evaluated / run / "eval" / record.log))
    assert (log.status, log.eval.metadata["run"]) == ("success", run)
    assert log.eval.metadata["checkpoint"] == checkpoint
    assert log.eval.metadata["adapter_sha256"] == record.adapter_sha256
    assert log.eval.metadata["base_sha256"] == record.base_sha256 == config.model.weights_sha256
    assert log.eval.metadata["settings_sha256"] == record.settings_sha256 == settings_sha256(config)
    assert log.samples is not None
    assert [sample.id for sample in record.samples] == [f"test-{number}" for number in range(20)]
    by_id = {sample.id: sample for sample in log.samples}
    score = get_task(config.task).score
    for sample in some(record.samples):
        logged = by_id[sample.id]
        assert (sample.output, sample.target) == (logged.output.completion, logged.target)
        assert (sample.exact, sample.match) == (
            score(sample.output, sample.target).exact,
            score(sample.output, sample.target).match,
        )
        assert logged.scores is not None
        assert set(logged.scores) == {"exact", "match"}
    assert finished_evaluation(evaluated / run, config, checkpoint, record.adapter_sha256) == record


def test_the_scores_hold_each_item_as_the_model_saw_it(evaluated: Path) -> None:
    """Question and full prompt: what the tokenizer was given, special tokens included, also for a control."""
    for run, _ in tiny.ALL_JOBS:
        config = read_evaluation_config(evaluated / run / "eval.yaml")
        (record,) = read_evaluations(evaluated / run)
        renderer = load_renderer(read_model(Path(config.model.path)), config.date)
        asked = read_asked(evaluated / run, record)
        for example in planned_items(config):
            assert asked[example.id].question == example.prompt[-1].content
            assert asked[example.id].prompt == renderer.prompt_text(example.prompt)


def test_a_run_by_itself_does_what_its_eval_yaml_asks_for(evaluated: Path, tmp_path: Path) -> None:
    """As eval.slurm starts it; what is finished is not repeated, and what is not trained is told apart."""
    alone = shutil.copytree(evaluated, tmp_path / "alone")
    config = read_evaluation_config(alone / "tiny_rank8" / "eval.yaml")
    tiny.write_run(alone, replace(config, train_epochs=2, evaluate=replace(config.evaluate, epochs="all", samples=4)))
    done = run_one(alone, "tiny_rank8")
    assert (done.returncode, done.stdout) == (EXIT_PARENT_NOT_READY, "")
    assert "tiny_rank8 is not trained: no training.json, no epoch_1," in done.stderr.splitlines()[-1]
    kept = [(record.checkpoint, len(record.samples)) for record in read_evaluations(alone / "tiny_rank8")]
    assert sorted(kept) == [("epoch_0", 4), ("epoch_0", 20)]
    before = files(alone)
    assert run_one(alone, "tiny_base").stderr == "touchline: tiny_base: already evaluated\n"
    assert files(alone) == before


def test_what_is_finished_is_not_repeated(evaluated: Path) -> None:
    """The same request again touches no file. The adapters really were on: their answers differ."""
    before = files(evaluated)
    evaluate(evaluated, read_request(evaluated / "request.json"))
    assert files(evaluated) == before
    outputs = {
        tuple(sample.output for sample in read_evaluations(evaluated / run)[0].samples) for run, _ in tiny.ALL_JOBS
    }
    assert len(outputs) == len(tiny.ALL_JOBS)


@pytest.mark.parametrize("change", ["prompt", "samples", "more samples", "adapter", "log gone", "scores broken"])
def test_a_stale_evaluation_is_made_again(evaluated: Path, tmp_path: Path, change: str) -> None:
    """Other prompt, items or weights, or a broken record: it does not count as finished."""
    experiment = shutil.copytree(evaluated, tmp_path / "stale")
    folder = experiment / "tiny_rank4"
    config = read_evaluation_config(folder / "eval.yaml")
    (old,) = read_evaluations(folder)
    if change == "prompt":
        tiny.write_run(experiment, replace(config, data=replace(config.data, prompt=tiny.PROMPT + "!")))
    elif change == "samples":
        tiny.write_run(experiment, replace(config, evaluate=replace(config.evaluate, samples=7)))
    elif change == "more samples":
        tiny.write_run(experiment, replace(config, evaluate=replace(config.evaluate, samples=21)))
    elif change == "adapter":
        tiny.make_adapter(Path(config.model.path), folder / "epoch_0", seed=9)
    elif change == "log gone":
        (folder / "eval" / old.log).unlink()
    else:
        (folder / "eval" / "capitalization_epoch_0.scores.json").write_text("{}")
    evaluate(experiment, read_request(tiny.write_request(experiment, ("tiny_rank4", "epoch_0"))))
    records = read_evaluations(folder)
    (new,) = [record for record in records if record.log_sha256 != old.log_sha256]
    # What was made by other settings or of other weights stays beside it, log and scores; the same again replaces it.
    assert (old in records) == (change in ("prompt", "samples", "more samples", "adapter"))
    assert (new.log == old.log) == (old not in records)
    assert len(new.samples) == (7 if change == "samples" else 20)
    assert read_eval_log(str(folder / "eval" / new.log)).status == "success"


@pytest.mark.parametrize("what", ["base", "digest", "data"])
def test_drift_is_refused_and_leaves_nothing(evaluated: Path, tmp_path: Path, what: str) -> None:
    """Another base, another training, other items than planned: exit code 3, no log."""
    experiment = shutil.copytree(evaluated, tmp_path / "drift")
    folder = experiment / "tiny_rank4"
    shutil.rmtree(folder / "eval")
    config = read_evaluation_config(folder / "eval.yaml")
    if what == "base":
        tiny.write_run(experiment, replace(config, model=replace(config.model, weights_sha256="1" * 64)))
    elif what == "digest":
        tiny.write_marker(Path(config.model.path), folder / "epoch_0", run_digest="e" * 64)
    else:
        tiny.write_run(experiment, replace(config, data_sha256="2" * 64))
    with pytest.raises(PlanDriftError):
        evaluate(experiment, read_request(tiny.write_request(experiment, ("tiny_rank4", "epoch_0"))))
    assert not (folder / "eval").exists()
    assert not list((experiment / SCRATCH).glob("*/*"))


@pytest.mark.parametrize("job", [("../outside", "epoch_0"), ("tiny_rank4", "../../x"), ("tiny_rank4", "epoch_9")])
def test_a_job_that_leads_out_or_nowhere_is_refused(evaluated: Path, job: tuple[str, str], tmp_path: Path) -> None:
    """Names in a request stay within the experiment."""
    experiment = shutil.copytree(evaluated, tmp_path / "copy")
    with pytest.raises(InputError):
        evaluate(experiment, read_request(tiny.write_request(experiment, job)))


@pytest.mark.parametrize("text", ["", "[]", '{"jobs": [{"run": "a"}]}', '{"jobs": [], "more": 1}'])
def test_a_request_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """Exit code 2, in words."""
    path = tmp_path / "request.json"
    path.write_text(text)
    with pytest.raises(InputError):
        read_request(path)


INSPECT = ("-m", "inspect_ai", "eval", "eval.py", "--display", "plain", "--log-dir")


def inspect_command(folder: Path, log_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            *["-m", "inspect_ai", "eval", "eval.py", "--display", "plain", "--log-dir"],
            str(log_dir),
            *options,
        ],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_inspects_own_command_works_in_the_runs_folder(evaluated: Path, tmp_path: Path) -> None:
    """`inspect eval eval.py --model touchline/epoch_0` answers as the process did."""
    folder = evaluated / "tiny_rank4"
    done = inspect_command(folder, tmp_path, "--model", "touchline/epoch_0", "-M", "dtype=float32")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.eval")
    log = read_eval_log(str(path))
    assert log.status == "success"
    assert log.samples is not None
    (record,) = read_evaluations(folder)
    assert {s.id: s.output.completion for s in log.samples} == {s.id: s.output for s in record.samples}


@pytest.mark.thorough
def test_inspects_own_command_samples_when_asked_and_refuses_what_is_not_done(evaluated: Path, tmp_path: Path) -> None:
    """Without a model it says what to pass. The same seed draws the same answers in another process, where the
    checkpoint is named by its absolute path; a setting that is not known is an error in the log."""
    folder = evaluated / "tiny_rank4"
    done = inspect_command(folder, tmp_path)
    assert "--model touchline/epoch_0" in "".join((done.stdout + done.stderr).split("\n"))
    answers = []
    for place, checkpoint in (("one", "epoch_0"), ("two", folder / "epoch_0")):
        options = ("--model", f"touchline/{checkpoint}", "-M", "dtype=float32")
        done = inspect_command(folder, tmp_path / place, *options, "--temperature", "2", "--seed", "5", "--epochs", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = (tmp_path / place).glob("*.eval")
        samples = read_eval_log(str(path)).samples or []
        answers.append({(sample.id, sample.epoch): sample.output.completion for sample in samples})
    assert (answers[0], len(answers[0])) == (answers[1], 40)
    refused = inspect_command(folder, tmp_path, *options, "--temperature", "0.7", "--top-k", "5")
    assert "top_k" in refused.stdout + refused.stderr
    assert [read_eval_log(str(path), header_only=True).status for path in tmp_path.glob("*.eval")] == ["error"]


def end_at(experiment: Path, request: Path, line: str, number: signal.Signals, wait: float = 0.0) -> int:
    """Start the evaluation and send it a signal `wait` seconds after a line that ends so. Return its exit code."""
    process = subprocess.Popen(command(experiment, request), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    for said in process.stderr:
        if said.strip().endswith(line):
            time.sleep(wait)
            process.send_signal(number)
            break
    code = process.wait(timeout=300)
    process.stderr.close()
    return code


def test_kills_at_any_moment_leave_whole_files_and_the_next_start_finishes(evaluated: Path, tmp_path: Path) -> None:
    """kill -9 at seeded moments of runs that share their batches: every scores file has its log, and the same command,
    started again each time, gives the same answers."""
    experiment = shutil.copytree(evaluated, tmp_path / "killed")
    for run, _ in tiny.ALL_JOBS:
        shutil.rmtree(experiment / run / "eval")
    request = tiny.write_request(experiment, *tiny.ALL_JOBS)
    rng = random.Random(1)
    moments = ((": 20/20", 0.03), (": 0/20", 0.3), (": 20/20", 0.0))
    for line, most_seconds in moments if THOROUGH else moments[:1]:
        code = end_at(experiment, request, line, signal.SIGKILL, rng.random() * most_seconds)
        assert code == -signal.SIGKILL or len(list(experiment.glob("*/eval/*.scores.json"))) == len(tiny.ALL_JOBS)
        for run, _ in tiny.ALL_JOBS:
            for scores in (experiment / run).glob("eval/*.scores.json"):
                assert read_eval_log(str(scores.parent / json.loads(scores.read_text())["log"])).status == "success"
    again = run_process(experiment, request)
    assert again.returncode == 0, again.stderr
    assert [path for path in (experiment / SCRATCH).iterdir() if path.suffix != ".job"] == []
    for run, _ in tiny.ALL_JOBS:
        assert read_evaluations(experiment / run)[0].samples == read_evaluations(evaluated / run)[0].samples
        assert sorted(path.suffix for path in (experiment / run / "eval").iterdir()) == [".eval", ".json"]


def test_a_signal_ends_it_with_75_and_nothing_half_written(evaluated: Path, tmp_path: Path) -> None:
    """Asked to stop, it stops; the same command goes on with what is missing."""
    experiment = shutil.copytree(evaluated, tmp_path / "stopped")
    shutil.rmtree(experiment / "tiny_rank8" / "eval")
    request = tiny.write_request(experiment, *tiny.ALL_JOBS)
    for number in (signal.SIGTERM, signal.SIGINT) if THOROUGH else (signal.SIGTERM,):
        assert end_at(experiment, request, "tiny_rank8 epoch_0: 0/20", number) == 75
        assert not (experiment / "tiny_rank8" / "eval").exists()
    assert run_process(experiment, request).returncode == 0
    assert len(read_evaluations(experiment / "tiny_rank8")) == 1


def test_a_fault_is_told_in_words_with_its_exit_code(evaluated: Path, tmp_path: Path) -> None:
    """No traceback; what was expected and what to do. bitsandbytes, which takes long to load, is left alone."""
    experiment = shutil.copytree(evaluated, tmp_path / "fault")
    request = tiny.write_request(experiment, ("tiny_rank4", "epoch_9"))
    done = run_process(experiment, request, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "peft" in loaded
    assert not any(name.startswith("bitsandbytes.") for name in loaded)
    assert done.returncode == 2
    assert "epoch_9" in done.stderr
    assert "try: touchline run" in done.stderr
    assert "Traceback" not in done.stderr
