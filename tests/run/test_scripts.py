"""The scripts of a run's folder: what they ask of SLURM, that bash and sbatch read them alike, and hostile values."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.run.made_plans import (
    CPU,
    FULL_SITE,
    GPU,
    MODEL,
    NO_RUNS,
    SITE,
    made_control,
    made_memory,
    made_plan,
    made_run,
)

from touchline.backends.registry import launch_commands
from touchline.core.finding import Finding, Location
from touchline.core.quantity import Missing, Quantity
from touchline.experiment.experiment import ComputeConfig, EvaluationCompute
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ParentLink
from touchline.experiment.site import Site, SlurmSite
from touchline.lint.rule import check_view
from touchline.lint.views import ScriptView
from touchline.plan.jobs import place_jobs
from touchline.run.scripts.folder import run_files
from touchline.run.scripts.header import slurm_memory, slurm_time, warning_seconds
from touchline.run.scripts.shell import SlurmValueError, slurm_line, slurm_value
from touchline.slurm.directives import read_line
from touchline.slurm.script import read_script

pytestmark = pytest.mark.planning


def script(name: str, *, run: PlannedRun | None = None, plan: Plan | None = None, site: Site = SITE) -> str:
    run = run or made_run()
    return run_files(plan or made_plan(run), run, site)[name]


def asked(text: str) -> dict[str, str | None]:
    """Options that sbatch reads in a script."""
    return {
        each.option or each.written: each.value for each in read_script(text, "x.slurm", launch_commands()).directives
    }


def findings(text: str, name: str) -> list[Finding]:
    view = ScriptView(script=read_script(text, name, launch_commands()))
    return list(check_view(view, Location(path=name), name))


def test_everything_that_a_site_says_is_asked_for() -> None:
    assert asked(script("finetune.slurm", site=FULL_SITE)) == {
        "job-name": "1M_rank4",
        "output": "slurm-%j.out",
        "open-mode": "append",
        "account": "msalganik",
        "partition": "gpu",
        "qos": "short",
        "constraint": "a100&80gb",
        "nodes": "1",
        "ntasks": "1",
        "gpus": "a100:1",
        "cpus-per-task": "8",
        "mem": "64G",
        "time": "1:30:00",
        "requeue": None,
        "signal": "B:USR1@120",
        "mail-type": "FAIL",
    }


def test_an_experiment_overrules_the_site() -> None:
    compute = ComputeConfig(
        executor="slurm",
        gpus_per_run=2,
        partition="long",
        account="other",
        qos="low",
        constraint="h100",
        cpus_per_run=4,
        memory_gb_per_run=1.5,
        time_limit="30h",
    )
    found = asked(script("finetune.slurm", plan=made_plan(compute=compute), site=FULL_SITE))
    wanted = {"partition": "long", "account": "other", "qos": "low", "constraint": "h100", "gpus": "a100:2"}
    assert wanted.items() <= found.items()
    assert (found["cpus-per-task"], found["mem"], found["time"]) == ("4", "1536M", "30:00:00")
    evaluation = asked(script("eval.slurm", plan=made_plan(compute=compute), site=FULL_SITE))
    assert evaluation["gpus"] == "a100:1"
    assert evaluation["time"] == "0:20:00"


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({}, {"partition": "gpu", "constraint": "a100&80gb", "gpus": "a100:1", "time": "0:20:00"}),
        ({"gpus": 4, "time_limit": "3h"}, {"constraint": "a100&80gb", "gpus": "a100:4", "time": "3:00:00"}),
        ({"partition": "short"}, {"partition": "short", "gpus": "a100:1"}),
        ({"constraint": "l40s"}, {"partition": "gpu", "constraint": "l40s", "gpus": "1"}),
    ],
)
def test_an_evaluation_asks_for_resources_of_its_own(own: dict[str, object], wanted: dict[str, str]) -> None:
    """Its training and its job in a placement say what is theirs."""
    compute = ComputeConfig(executor="slurm", evaluation=EvaluationCompute(**own))  # type: ignore[arg-type]
    plan = made_plan(compute=compute, machine=GPU)
    training, evaluation = (asked(script(name, plan=plan, site=FULL_SITE)) for name in ("finetune.slurm", "eval.slurm"))
    assert wanted.items() <= evaluation.items()
    assert (training["partition"], training["constraint"], training["gpus"]) == ("gpu", "a100&80gb", "a100:1")
    placed = {job.id: job.gpus for job in place_jobs(plan, FULL_SITE.slurm)}
    assert placed["1M_rank4"] == 1
    assert placed["evaluate 1M_rank4"] == plan.evaluation_devices == own.get("gpus", 1)


def test_what_nobody_knows_is_left_out_and_the_script_says_why() -> None:
    run = made_run(limit=NO_RUNS)
    text = script("finetune.slurm", run=replace(run, peak_memory=NO_RUNS))
    assert {"time", "mem", "account", "partition"}.isdisjoint(asked(text))
    assert "# No time limit is requested (no comparable runs)" in text
    assert "# Host memory is not requested (no comparable runs)" in text


def test_jobs_on_gpus_ask_for_cpus_and_host_memory_without_a_config() -> None:
    """By processes and workers, and by the weights that each process reads; a placement counts with the same."""
    model = replace(MODEL, num_parameters=8_000_000_000, weight_bytes=16_000_000_000)
    weights = 16e9 / 2**30
    run = made_run()
    assert run.train is not None
    for gpus, workers in ((1, 0), (1, 16), (8, 2)):
        each = replace(run, train=replace(run.train, base_dtype="bfloat16", dataloader_workers=workers))
        plan = made_plan(each, compute=ComputeConfig(executor="slurm", gpus_per_run=gpus), machine=GPU)
        plan = replace(plan, models={MODEL.name: model}, machine=replace(GPU, requested_type="a100"))
        training, evaluation = (asked(script(name, run=each, plan=plan)) for name in ("finetune.slurm", "eval.slurm"))
        assert training["gpus"] == f"a100:{gpus}"
        assert training["cpus-per-task"] == str(gpus * (2 + workers))
        assert evaluation["cpus-per-task"] == "2"
        sizes = [int(str(found["mem"]).removesuffix("G")) for found in (training, evaluation)]
        assert gpus * weights < sizes[0] < 2 * gpus * (weights + 4 + workers)
        assert weights < sizes[1] <= sizes[0]
        placed = place_jobs(plan, SITE.slurm)
        assert [(job.cpus, job.memory_gb) for job in placed] == [(gpus * (2 + workers), sizes[0]), (2, sizes[1])]


def test_memory_on_a_processor_is_the_upper_end_of_the_prediction() -> None:
    assert asked(script("finetune.slurm"))["mem"] == "2489M"
    exact = replace(made_run(), peak_memory=Quantity(value=3.0, unit="GiB"))
    assert asked(script("finetune.slurm", run=exact))["mem"] == "3G"


def test_an_evaluation_on_a_processor_asks_for_its_own_memory() -> None:
    """A control too, each for its own; where nothing is predicted it asks for nothing."""
    trained, control = (
        replace(made_run(), evaluate_memory=made_memory(4)),
        replace(made_control(), evaluate_memory=made_memory(2)),
    )
    plan = made_plan(trained, control)
    sizes = [asked(script("eval.slurm", run=run, plan=plan))["mem"] for run in plan.runs]
    assert sizes == ["4G", "2G"]
    unknown = made_plan(made_run(), made_control())
    text = script("eval.slurm", run=unknown.runs[1], plan=unknown)
    assert "mem" not in asked(text)
    assert "# Host memory is not requested (no evidence)" in text


def test_runs_on_a_processor_ask_for_as_many_cores_as_were_planned_with() -> None:
    compute = ComputeConfig(executor="slurm", gpus_per_run=0)
    found = asked(script("finetune.slurm", plan=made_plan(compute=compute, machine=CPU)))
    assert found["cpus-per-task"] == "2"
    assert "gpus" not in found


@given(st.floats(1, 1e6), st.integers(1, 4000))
def test_no_job_is_told_to_save_when_it_has_just_begun(limit: float, wanted: int) -> None:
    seconds = warning_seconds(limit, wanted)
    if seconds is not None:
        assert 1 <= seconds <= min(wanted, limit / 4)
        assert limit - seconds - 60 > 0


def test_a_limit_too_short_for_a_warning_has_none() -> None:
    compute = ComputeConfig(executor="slurm", time_limit="1min")
    text = script("finetune.slurm", plan=made_plan(compute=compute))
    assert "signal" not in asked(text)
    assert "TOUCHLINE_SIGNAL_SECONDS" not in text
    assert "too short for a signal" in text


def test_times_and_sizes_are_rounded_up() -> None:
    assert [slurm_time(seconds) for seconds in (1, 60, 61, 3600, 360000)] == [
        "0:01:00",
        "0:01:00",
        "0:02:00",
        "1:00:00",
        "100:00:00",
    ]
    assert [slurm_memory(gib) for gib in (1, 0.0001, 2.5)] == ["1G", "1M", "2560M"]


def test_a_control_has_an_evaluation_and_nothing_else() -> None:
    control = made_control()
    assert set(run_files(made_plan(control), control, SITE)) == {"eval.yaml", "eval.py", "eval.slurm"}


def test_the_interpreter_of_the_nodes_is_used_on_the_cluster_alone() -> None:
    site = replace(SITE, slurm=SlurmSite(python="/nodes/bin/python"))
    assert "exec /nodes/bin/python -m touchline.run.attempt -- /nodes/bin/python -m" in script(
        "finetune.slurm", site=site
    )
    local = made_plan(compute=ComputeConfig())
    assert "exec /opt/env/bin/python" in script("finetune.slurm", plan=local, site=site)


def test_a_stage_says_where_it_goes_on_from() -> None:
    run = made_run("hard", link=ParentLink(stage="hard", parent="easy", continue_="adapter"))
    assert "It continues from ../easy (continue: adapter)" in script("finetune.slurm", run=run)


HOSTILE = ["a b'c", 'q"q', "with#hash", "back\\slash", "$(touch made)", "`touch made`", "*", "ü;rm", "-x"]


@pytest.mark.parametrize("name", ["finetune.slurm", "eval.slurm"])
@pytest.mark.parametrize("hostile", ["1M_rank4", *HOSTILE])
@pytest.mark.parametrize(("gpus", "machine"), [(0, CPU), (4, GPU)])
def test_no_value_breaks_a_script(name: str, hostile: str, gpus: int, machine: object) -> None:
    """bash reads it, sbatch reads each value as it was given, and `touchline check` finds nothing wrong."""
    run = made_run(hostile)
    compute = ComputeConfig(executor="slurm", gpus_per_run=gpus, time_limit="2h")
    plan = made_plan(run, compute=compute, machine=machine)  # type: ignore[arg-type]
    slurm = SlurmSite(account=hostile, constraint=hostile, modules=(hostile,), python=hostile, cpus_per_run=4)
    text = run_files(plan, run, replace(SITE, slurm=slurm, models_dir=hostile, cache_dir=hostile))[name]
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = asked(text)
    assert found["account"] == found["constraint"] == hostile
    assert found["job-name"] == hostile + ("-eval" if name == "eval.slurm" else "")
    assert [finding for finding in findings(text, name) if finding.severity == "error"] == []
    if hostile == "1M_rank4":
        assert findings(text, name) == []


@given(st.text())
def test_sbatch_reads_a_quoted_value_as_it_was_given(value: str) -> None:
    try:
        line = f"#SBATCH --account={slurm_value(value)}"
    except SlurmValueError:
        assert any(ord(mark) < 32 or 127 <= ord(mark) < 160 or mark in "\u2028\u2029" for mark in value)
        return
    (found,) = read_line(line, 1)
    assert (found.option, found.value, found.fault) == ("account", value, None)


@pytest.mark.parametrize("mark", ["\n", "\r", "\0", "\x1b", "\x85", "\u2028"])
def test_a_value_that_would_end_its_line_is_refused(mark: str) -> None:
    with pytest.raises(SlurmValueError):
        slurm_value(f"gpu{mark}#SBATCH --mem=0")
    with pytest.raises(SlurmValueError):
        slurm_line(f"--mail-type=FAIL{mark}rm -r x")
    for site in (SlurmSite(account=f"a{mark}b"), SlurmSite(partition=f"a{mark}b"), SlurmSite(options=(f"--x={mark}",))):
        with pytest.raises(SlurmValueError):
            script("finetune.slurm", site=replace(SITE, slurm=site))
    with pytest.raises(SlurmValueError):
        script("eval.slurm", plan=made_plan(compute=ComputeConfig(qos=f"a{mark}b")))


def test_a_reason_cannot_end_its_comment() -> None:
    run = replace(made_run(), time_limit_seconds=Missing(missing="no\nrm -r x"), peak_memory=Missing(missing="a\nb"))
    text = script("finetune.slurm", run=run)
    assert "\nrm -r x" not in text
    assert "\nb)" not in text


def run_bash(folder: Path, text: str, *, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A script as `bash finetune.slurm` runs it; what it would start only tells how it was started."""
    (folder / "finetune.slurm").write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "BASH_FUNC_module"))}
    return subprocess.run(
        ["bash", "finetune.slurm"],
        cwd=folder,
        env=kept | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def talking(tmp_path: Path) -> Site:
    """A site whose interpreter prints what it was given."""
    python = tmp_path / "py thon"
    python.write_text('#!/bin/bash\nprintf "%s|" "$@" "$PWD" "$TOUCHLINE_MODELS_DIR" "$TOUCHLINE_CACHE_DIR"\n')
    python.chmod(0o755)
    return replace(SITE, python=str(python), models_dir="/m d", cache_dir="/c'd")


def test_bash_starts_the_supervisor_in_the_folder(tmp_path: Path, talking: Site) -> None:
    """Without environment modules, and with lines of the user's that read variables which are not set."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "finetune.yaml").touch()
    slurm = SlurmSite(modules=("a", "b c"), setup=('export X="$NOT_SET"', "echo set up >&2"))
    text = script("finetune.slurm", plan=made_plan(compute=ComputeConfig()), site=replace(talking, slurm=slurm))
    done = run_bash(folder, text)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split("|")
    assert words[:3] == ["-m", "touchline.run.attempt", "--"]
    assert words[3:6] == [talking.python, "-m", "touchline.train"]
    assert words[6:9] == [str(folder), "/m d", "/c'd"]
    assert "no environment modules here, not loaded: a b c" in done.stderr
    assert "set up" in done.stderr


def test_modules_are_loaded_where_there_are_any(tmp_path: Path, talking: Site) -> None:
    (tmp_path / "finetune.yaml").touch()
    site = replace(talking, slurm=SlurmSite(modules=("a", "b c")))
    text = script("finetune.slurm", site=site)
    done = run_bash(tmp_path, text, environment={"BASH_FUNC_module%%": '() { echo "loads: $2" >&2; }'})
    assert done.stderr.splitlines() == ["loads: a", "loads: b c"]


def test_it_runs_in_the_folder_that_it_was_submitted_from(tmp_path: Path, talking: Site) -> None:
    """A folder that sbatch was told by --chdir, where it starts, goes before; elsewhere it says what it expected."""
    there, other = tmp_path / "there", tmp_path / "other"
    there.mkdir()
    other.mkdir()
    text = script("finetune.slurm", site=talking)
    done = run_bash(other, text, environment={"SLURM_SUBMIT_DIR": str(other)})
    assert done.returncode == 2
    assert f"no finetune.yaml in {other}" in done.stderr
    (there / "finetune.yaml").touch()
    done = run_bash(other, text, environment={"SLURM_SUBMIT_DIR": str(there)})
    assert str(there) in done.stdout.split("|")
    done = run_bash(there, text, environment={"SLURM_SUBMIT_DIR": str(other)})
    assert str(there) in done.stdout.split("|")
