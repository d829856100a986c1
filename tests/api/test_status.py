"""`touchline status` and `touchline logs` as a person uses them: a table, a live view, a log that goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from tests.api import made_runs as made
from tests.api.folders import make_experiment
from typer.testing import CliRunner, Result

from touchline import api
from touchline.cli.watching import logs, status
from touchline.core.errors import InputError
from touchline.core.status import JobState, RunStatus
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.results.live_status import LiveRun
from touchline.results.watching import Watcher
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job
from touchline.slurm.job_view import JobView
from touchline.slurm.local.commands import CommandResult

pytestmark = [pytest.mark.planning, pytest.mark.slow]

APP = typer.Typer()
APP.command("status")(status)
APP.command("logs")(logs)
STATUS = "import typer; from touchline.cli.watching import status; typer.run(status)"
LOGS = "import typer; from touchline.cli.watching import logs; typer.run(logs)"


class Commands:
    """SLURM's commands that give one answer to everything."""

    def __init__(self, answer: CommandResult) -> None:
        self.answer = answer
        self.asked: list[list[str]] = []

    def run(self, words: list[str], **options: object) -> CommandResult:
        self.asked.append(list(words))
        return self.answer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, settings: UserConfig) -> Path:
    place = make_experiment(tmp_path_factory.mktemp("prepared") / "exp")
    api.plan(place, settings)
    api.prepare(place, settings)
    return place


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy whose name needs quoting."""
    return Path(shutil.copytree(prepared, tmp_path / "it's 5 o'clock; $(ls)"))


@pytest.fixture(autouse=True)
def _settings(settings: UserConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHLINE_MODELS_DIR", str(settings.models_dir))
    monkeypatch.setenv("TOUCHLINE_CACHE_DIR", str(settings.cache_dir))
    monkeypatch.setenv("COLUMNS", "200")


def plan_of(folder: Path) -> Plan:
    found = ExperimentFolder(folder).read_plan()
    assert found is not None
    return found


def call(*arguments: str) -> Result:
    return CliRunner().invoke(APP, list(arguments), catch_exceptions=False)


def finish(folder: Path, run_number: int = 0) -> Path:
    """Train and evaluate a run by hand; give its folder."""
    plan = plan_of(folder)
    run = plan.runs[run_number]
    place = folder / run.name
    made.begin(place)
    made.end(place)
    made.train(plan, run, place)
    made.evaluate(plan, run, place)
    return place


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_is_data_and_the_talk_is_not(folder: Path) -> None:
    finish(folder)
    shown = call("status", str(folder))
    assert shown.exit_code == 0
    first, *lines = shown.stdout.splitlines()
    assert first.split()[:3] == ["run", "status", "step"]
    assert [line.split()[:2] for line in lines] == [
        ["1M_rank2", "completed"],
        ["1M_rank4", "prepared"],
        ["1M_base", "prepared"],
    ]
    assert "40/40" in lines[0]
    assert "3 runs: 2 prepared · 1 completed" in shown.stderr
    data = json.loads(call("status", str(folder), "--json", "--no-queue").stdout, parse_constant=pytest.fail)
    assert data["schema_version"] == 1
    runs = TypeAdapter(list[LiveRun]).validate_python(data["runs"])
    assert [run.status for run in runs] == [RunStatus.COMPLETED, RunStatus.PREPARED, RunStatus.PREPARED]
    with pytest.raises(InputError, match="--watch"):
        call("status", str(folder), "--watch", "--json")
    watched = call("status", str(folder), "--watch").stdout
    assert watched.splitlines()[-1] == "3 runs: 2 prepared · 1 completed", "nothing at work ends a watch at once"


def test_a_flag_says_what_to_do_below_the_table_and_a_shared_one_once(folder: Path) -> None:
    for run in plan_of(folder).runs[:2]:
        made.begin(folder / run.name)
        made.write_metrics(folder / run.name, [made.START, *made.steps(3)])
        made.end(folder / run.name, code=1, reason="failed")
    shown = call("status", str(folder)).stdout
    assert shown.count("1M_rank2, 1M_rank4: error RN111: ") == 1
    hint = re.search(r"hint: touchline logs (.+) --run 1M_rank2", shown)
    assert hint is not None
    words = subprocess.run(["bash", "-c", f"printf '%s' {hint[1]}"], capture_output=True, text=True, check=True).stdout
    assert words == str(folder)


def test_foreign_text_reaches_the_terminal_without_its_control_sequences(folder: Path) -> None:
    place = folder / plan_of(folder).runs[0].name
    made.begin(place)
    made.write_metrics(place, [made.START, *made.steps(3)])
    made.end(place, code=1, reason="\x1b[2J\x1b]0;title\x07evil")
    (place / "slurm-1.out").write_text("\x1b[31mred\x1b[0m \x07 \x1b]8;;http://x\x07link\n")
    assert "\x1b" not in call("status", str(folder)).stdout
    said = call("logs", str(folder), "--run", place.name).stdout
    assert said == "red  link\n"


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_a_queue_that_does_not_answer_is_one_line_and_the_folders_are_shown(
    folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.plan(folder, settings, ["compute.executor=slurm", "compute.gpu=cpu"])
    finish(folder)
    broken = Commands(CommandResult(code=None, out="", err="squeue: No such file or directory"))
    watcher = Watcher(folder, settings, commands=broken)
    seen = watcher.now()
    assert "squeue: No such file or directory" in seen.note
    assert next(run.status for run in seen.runs) is RunStatus.COMPLETED
    asked = sum(words[0] == "squeue" for words in broken.asked)
    watcher.now()
    assert sum(words[0] == "squeue" for words in broken.asked) == asked
    assert Watcher(folder, settings, look=False, commands=broken).now().note == ""
    # Behind a queue that failed nothing else is waited for.
    made.begin(folder / "1M_rank4", job_id="76")
    down = Commands(CommandResult(code=1, out="", err="slurm_load_jobs error: Unable to contact slurm controller"))
    assert {run.queue_reason for run in Watcher(folder, settings, commands=down).now().runs} == {""}
    assert {words[0] for words in down.asked} <= {"squeue"}


def test_a_job_that_ends_between_two_looks_is_not_called_incomplete(
    folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / plan_of(folder).runs[0].name
    made.begin(place)
    watcher = Watcher(folder, settings)

    class Ends:
        def query_jobs(self, jobs: list[Job]) -> dict[str, JobView]:
            finish(folder)
            over = JobView(job_id="local-1", state=JobState.COMPLETED, active=False, source="exit file", exit_code=0)
            return {jobs[0].name: over}

    monkeypatch.setattr(watcher, "_executor", Ends())
    run = watcher.now().runs[0]
    assert (run.status, run.flags) == (RunStatus.COMPLETED, ())


def test_a_finished_experiment_asks_nobody(folder: Path, settings: UserConfig) -> None:
    api.plan(folder, settings, ["compute.executor=slurm", "compute.gpu=cpu"])
    finish(folder, 0)
    finish(folder, 1)
    made.evaluate(plan_of(folder), plan_of(folder).runs[2], folder / plan_of(folder).runs[2].name)
    commands = Commands(CommandResult(code=1, out="", err="down"))
    seen = Watcher(folder, settings, commands=commands).now()
    assert {run.status for run in seen.runs} == {RunStatus.COMPLETED}
    assert (seen.note, seen.active, commands.asked) == ("", False, [])


# ---- runs_status.yaml -----------------------------------------------------------------------------------------------


def test_runs_status_is_kept_current_and_what_it_holds_of_others_stays(folder: Path, settings: UserConfig) -> None:
    path = folder / "runs_status.yaml"
    before = YAML(typ="safe").load(path.read_text())["runs"]
    place = finish(folder)
    call("status", str(folder))
    runs = YAML(typ="safe").load(path.read_text())["runs"]
    assert [run["status"] for run in runs] == ["completed", "prepared", "prepared"]
    assert (runs[0]["slurm_job_id"], runs[0]["started"]) == ("local-1", "1970-01-01T00:16:40Z")
    assert runs[0]["completed"] == "1970-01-01T00:18:20Z"
    assert runs[0]["metrics"]["seconds_per_step"] == 2
    assert runs[1:] == before[1:]
    assert (place / "run_metrics.yaml").exists()
    text = path.read_text()
    stamp = path.stat().st_mtime_ns
    call("status", str(folder))
    assert path.stat().st_mtime_ns == stamp
    api.collect(folder, settings)
    assert path.read_text() == text
    # What is not ours is left alone.
    for other in ("", "by hand: true\n", "# Status and measurements of every run\nruns:\n  - name: x\n"):
        path.write_text(other)
        assert call("status", str(folder)).exit_code == 0
        assert path.read_text() == other


def test_an_experiment_of_somebody_else_is_shown_though_nothing_can_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(folder)

    def refuse(path: Path, content: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("touchline.core.files.write_atomic", refuse)
    monkeypatch.setattr("touchline.results.run_folder.write_atomic", refuse)
    assert "completed" in call("status", str(folder)).stdout


# ---- watching -------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    plan = plan_of(folder)
    process = made.at_work(folder / plan.runs[0].name)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_ctrl_c_leaves_the_watch_and_stops_nothing_and_another_ends_with_the_jobs(
    folder: Path, env: dict[str, str], job: subprocess.Popen[bytes]
) -> None:
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", STATUS, str(folder), "--watch"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, bufsize=1,
        )
        for _ in range(2)
    )  # fmt: skip
    for watch in (first, second):
        assert watch.stdout is not None
        line = watch.stdout.readline()
        assert re.search(r"1M_rank2  running  20/40  loss 0.05  40 tokens/s  .* left", line), line
    first.send_signal(signal.SIGINT)
    _, talk = first.communicate(timeout=60)
    assert first.returncode == 0, talk
    assert job.poll() is None
    finish(folder, 1)
    control = plan_of(folder).runs[2]
    made.evaluate(plan_of(folder), control, folder / control.name)
    job.terminate()
    job.wait(timeout=60)
    finish(folder, 0)
    rest, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert rest.splitlines()[-1].startswith("3 runs: ")
    assert "completed" in rest


# ---- logs -----------------------------------------------------------------------------------------------------------


def test_the_newest_output_by_experiment_and_run_or_by_the_runs_folder(folder: Path) -> None:
    place = folder / plan_of(folder).runs[0].name
    (place / "slurm-1.out").write_text("old\n")
    os.utime(place / "slurm-1.out", (1, 1))
    bar = "\r".join(f"{number}%|{'#' * number}" for number in range(100))
    (place / "slurm-2.out").write_text(f"one\ntwo\n{bar}\nthree\n")
    (place / "slurm-eval-3.out").write_text("evaluated\n")
    assert call("logs", str(folder), "--run", place.name, "-n", "2").stdout == f"99%|{'#' * 99}\nthree\n"
    assert call("logs", str(place), "-n", "1").stdout == "three\n"
    assert "slurm-2.out" in call("logs", str(place)).stderr
    made.begin(place, job_id="1")
    assert call("logs", str(place)).stdout == "old\n"


def test_the_evaluations_output_here_and_on_a_cluster(folder: Path, settings: UserConfig) -> None:
    plan = plan_of(folder)
    shared = ExperimentFolder(folder).evaluation(next(iter(plan.models)))
    (shared / "status").mkdir(parents=True)
    (shared / "local-1.out").write_text("shared\n")
    assert call("logs", str(folder), "--run", plan.runs[0].name, "--eval").stdout == "shared\n"
    assert call("logs", str(folder), "--run", plan.runs[2].name).stdout == "shared\n"
    api.plan(folder, settings, ["compute.executor=slurm", "compute.gpu=cpu"])
    (folder / plan.runs[0].name / "slurm-eval-3.out").write_text("own\n")
    assert call("logs", str(folder), "--run", plan.runs[0].name, "--eval").stdout == "own\n"


@pytest.mark.parametrize("wrong", [["--run", "1M_rnk2"], [], ["--run", "1M_rank2"]])
def test_no_such_run_no_run_and_no_output_are_one_message_each(folder: Path, wrong: list[str]) -> None:
    with pytest.raises(InputError) as fault:
        call("logs", str(folder), *wrong)
    assert fault.value.hint


def test_a_log_is_followed_across_attempts_until_the_run_ends(
    folder: Path, env: dict[str, str], job: subprocess.Popen[bytes]
) -> None:
    plan = plan_of(folder)
    place = folder / plan.runs[0].name
    follow = subprocess.Popen(
        [sys.executable, "-c", LOGS, str(folder), "--run", place.name, "-f"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, bufsize=1,
    )  # fmt: skip
    assert follow.stdout is not None
    assert follow.stdout.readline() == "at work\n"
    with (place / "slurm-local-77.out").open("a") as stream:
        stream.write("1%\r2%\r3%\nmore\n")
    assert [follow.stdout.readline() for _ in range(2)] == ["3%\n", "more\n"]
    # A second attempt begins while the first one ends.
    job.terminate()
    job.wait(timeout=60)
    second = made.at_work(place, number=78)
    try:
        assert follow.stdout.readline() == "at work\n"
    finally:
        second.terminate()
        second.wait(timeout=60)
    made.train(plan, plan.runs[0], place)
    with (place / "slurm-local-78.out").open("a") as stream:
        stream.write("the last word, without a newline")
    out, err = follow.communicate(timeout=60)
    assert follow.returncode == 0, err
    assert out.endswith("the last word, without a newline\n")
    assert "slurm-local-78.out" in err


# ---- speed, by its causes -------------------------------------------------------------------------------------------


def test_status_loads_nothing_heavy(folder: Path, env: dict[str, str]) -> None:
    finish(folder)
    call("status", str(folder))
    code = (
        "import sys; from pathlib import Path; from touchline.data.user_config import load_settings\n"
        "from touchline.results.watching import Watcher\n"
        f"Watcher(Path({str(folder)!r}), load_settings()).now()\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    heavy = {"numpy", "scipy", "torch", "jinja2", "rich", "touchline.api", "touchline.plan.build"}
    assert not heavy & set(loaded.split())


def test_a_new_plan_is_read_again_with_its_evaluation_settings(folder: Path, settings: UserConfig) -> None:
    finish(folder)
    watcher = Watcher(folder, settings)
    assert [run.status is RunStatus.COMPLETED for run in watcher.now().runs] == [True, False, False]
    text = (folder / "experiment.yaml").read_text().replace("[2, 4]", "[2, 4, 8]")
    (folder / "experiment.yaml").write_text(text)
    api.plan(folder, settings)
    assert [run.status is RunStatus.COMPLETED for run in watcher.now().runs] == [True, False, False, False]
    text = (folder / "experiment.yaml").read_text().replace("max_new_tokens: 12", "max_new_tokens: 14")
    (folder / "experiment.yaml").write_text(text)
    api.plan(folder, settings)
    assert Watcher(folder, settings).now().runs[0].status is RunStatus.TRAINED
    (folder / ".touchline" / "evaluation_settings.json").write_text("[]")
    assert Watcher(folder, settings).now().runs[0].status is RunStatus.TRAINED


def test_rows_cut_off_by_a_full_disk_do_not_hide_that_the_training_is_complete(folder: Path) -> None:
    place = finish(folder)
    data = (place / "metrics.jsonl").read_bytes()
    (place / "metrics.jsonl").write_bytes(data[: len(data) // 2])
    shown = json.loads(call("status", str(folder), "--json").stdout)["runs"][0]
    assert (shown["status"], shown["steps_done"]) == ("completed", 40)
    made.write_metrics(place, [replace(made.START, steps=40)])
