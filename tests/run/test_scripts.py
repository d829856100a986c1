"""The scripts of a run's folder: what they ask of SLURM, that bash and sbatch read them alike, and hostile values."""

import json
import os
import subprocess
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.run import made_plans as plans

from touchline import api
from touchline.backends.registry import launch_commands
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing, Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import ComputeConfig, EvaluationCompute
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.requests import CheckRequest
from touchline.experiment.runs import ParentLink
from touchline.experiment.value_types import Site, SlurmSite
from touchline.lint.local import checking
from touchline.lint.local.programs import NOT_CHECKED, find_shellcheck, shell_findings
from touchline.lint.rule import check_view
from touchline.lint.scripts import ScriptView
from touchline.plan.jobs import place_jobs
from touchline.run.scripts.folder import run_files
from touchline.run.scripts.header import (
    SlurmValueError,
    slurm_line,
    slurm_memory,
    slurm_time,
    slurm_value,
    warning_seconds,
)
from touchline.slurm.options import read_line
from touchline.slurm.script import read_script

pytestmark = pytest.mark.planning


def script(name: str, *, run: PlannedRun | None = None, plan: Plan | None = None, site: Site = plans.SITE) -> str:
    run = run or plans.made_run()
    return run_files(plan or plans.made_plan(run), run, site)[name]


def asked(text: str) -> dict[str, str | None]:
    return {e.option or e.written: e.value for e in read_script(text, "x.slurm", launch_commands()).directives}


def findings(text: str, name: str) -> list[Finding]:
    view = ScriptView(script=read_script(text, name, launch_commands()))
    return list(check_view(view, Location(path=name), name))


def test_everything_that_a_site_says_is_asked_for() -> None:
    assert asked(script("finetune.slurm", site=plans.FULL_SITE)) == {
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
    found = asked(script("finetune.slurm", plan=plans.made_plan(compute=compute), site=plans.FULL_SITE))
    wanted = {"partition": "long", "account": "other", "qos": "low", "constraint": "h100", "gpus": "a100:2"}
    assert wanted.items() <= found.items()
    assert (found["cpus-per-task"], found["mem"], found["time"]) == ("4", "1536M", "30:00:00")
    evaluation = asked(script("eval.slurm", plan=plans.made_plan(compute=compute), site=plans.FULL_SITE))
    assert (evaluation["gpus"], evaluation["time"]) == ("a100:1", "0:20:00")


@parametrize(
    "own, wanted",
    ({}, {"partition": "gpu", "constraint": "a100&80gb", "gpus": "a100:1", "time": "0:20:00"}),
    ({"gpus": 4, "time_limit": "3h"}, {"constraint": "a100&80gb", "gpus": "a100:4", "time": "3:00:00"}),
    ({"partition": "short"}, {"partition": "short", "gpus": "a100:1"}),
    ({"constraint": "l40s"}, {"partition": "gpu", "constraint": "l40s", "gpus": "1"}),
)
def test_an_evaluation_asks_for_resources_of_its_own(own: dict[str, object], wanted: dict[str, str]) -> None:
    """Its training and its job in a placement say what is theirs."""
    compute = ComputeConfig(executor="slurm", evaluation=EvaluationCompute(**own))
    plan = plans.made_plan(compute=compute, machine=plans.GPU)
    training, evaluation = (
        asked(script(name, plan=plan, site=plans.FULL_SITE)) for name in ("finetune.slurm", "eval.slurm")
    )
    assert wanted.items() <= evaluation.items()
    assert (training["partition"], training["constraint"], training["gpus"]) == ("gpu", "a100&80gb", "a100:1")
    placed = {job.id: job.gpus for job in place_jobs(plan, plans.FULL_SITE.slurm)}
    assert placed["1M_rank4"] == 1
    assert placed["evaluate 1M_rank4"] == plan.evaluation_devices == own.get("gpus", 1)


def test_what_nobody_knows_is_left_out_and_the_script_says_why() -> None:
    run = plans.made_run(limit=plans.NO_RUNS)
    text = script("finetune.slurm", run=replace(run, peak_memory=plans.NO_RUNS))
    assert {"time", "mem", "account", "partition"}.isdisjoint(asked(text))
    assert "# No time limit is requested (no comparable runs)" in text
    assert "# Host memory is not requested (no comparable runs)" in text


def test_jobs_on_gpus_ask_for_cpus_and_host_memory_without_a_config() -> None:
    """By processes and workers, and by the weights that each process reads; a placement counts with the same."""
    model = replace(plans.MODEL, num_parameters=8_000_000_000, weight_bytes=16_000_000_000)
    weights = 16e9 / 2**30
    run = plans.made_run()
    assert run.train is not None
    for gpus, workers in ((1, 0), (1, 16), (8, 2)):
        each = replace(run, train=replace(run.train, base_dtype="bfloat16", dataloader_workers=workers))
        plan = plans.made_plan(each, compute=ComputeConfig(executor="slurm", gpus_per_run=gpus), machine=plans.GPU)
        plan = replace(plan, models={plans.MODEL.name: model}, machine=replace(plans.GPU, requested_type="a100"))
        training, evaluation = (asked(script(name, run=each, plan=plan)) for name in ("finetune.slurm", "eval.slurm"))
        assert training["gpus"] == f"a100:{gpus}"
        assert training["cpus-per-task"] == str(gpus * (2 + workers))
        assert evaluation["cpus-per-task"] == "2"
        sizes = [int(str(found["mem"]).removesuffix("G")) for found in (training, evaluation)]
        assert gpus * weights < sizes[0] < 2 * gpus * (weights + 4 + workers)
        assert weights < sizes[1] <= sizes[0]
        placed = place_jobs(plan, plans.SITE.slurm)
        assert [(job.cpus, job.memory_gb) for job in placed] == [(gpus * (2 + workers), sizes[0]), (2, sizes[1])]


def test_memory_on_a_processor_is_the_upper_end_of_the_prediction() -> None:
    assert asked(script("finetune.slurm"))["mem"] == "2489M"
    exact = replace(plans.made_run(), peak_memory=Quantity(value=3.0, unit="GiB"))
    assert asked(script("finetune.slurm", run=exact))["mem"] == "3G"


def test_an_evaluation_on_a_processor_asks_for_its_own_memory() -> None:
    """A control too, each for its own; where nothing is predicted it asks for nothing."""
    trained, control = (
        replace(plans.made_run(), evaluate_memory=plans.made_memory(4)),
        replace(plans.made_control(), evaluate_memory=plans.made_memory(2)),
    )
    plan = plans.made_plan(trained, control)
    sizes = [asked(script("eval.slurm", run=run, plan=plan))["mem"] for run in plan.runs]
    assert sizes == ["4G", "2G"]
    unknown = plans.made_plan(plans.made_run(), plans.made_control())
    text = script("eval.slurm", run=unknown.runs[1], plan=unknown)
    assert "mem" not in asked(text)
    assert "# Host memory is not requested (no evidence)" in text


def test_runs_on_a_processor_ask_for_as_many_cores_as_were_planned_with() -> None:
    compute = ComputeConfig(executor="slurm", gpus_per_run=0)
    found = asked(script("finetune.slurm", plan=plans.made_plan(compute=compute, machine=plans.CPU)))
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
    text = script("finetune.slurm", plan=plans.made_plan(compute=compute))
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


def test_what_a_run_has_of_scripts() -> None:
    control = plans.made_control()
    assert set(run_files(plans.made_plan(control), control, plans.SITE)) == {"eval.yaml", "eval.py", "eval.slurm"}
    run = plans.made_run("hard", link=ParentLink(stage="hard", parent="easy", continue_="adapter"))
    assert "It continues from ../easy (continue: adapter)" in script("finetune.slurm", run=run)


def test_the_interpreter_of_the_nodes_is_used_on_the_cluster_alone() -> None:
    site = replace(plans.SITE, slurm=SlurmSite(python="/nodes/bin/python"))
    assert "exec /nodes/bin/python -m touchline.run.attempt -- /nodes/bin/python -m" in script(
        "finetune.slurm", site=site
    )
    local = plans.made_plan(compute=ComputeConfig())
    assert "exec /opt/env/bin/python" in script("finetune.slurm", plan=local, site=site)


HOSTILE = ["a b'c", 'q"q', "with#hash", "back\\slash", "$(touch made)", "`touch made`", "*", "ü;rm", "-x"]


@pytest.mark.parametrize("name", ["finetune.slurm", "eval.slurm"])
@pytest.mark.parametrize("hostile", ["1M_rank4", *HOSTILE])
@pytest.mark.parametrize(("gpus", "machine"), [(0, plans.CPU), (4, plans.GPU)])
def test_no_value_breaks_a_script(name: str, hostile: str, gpus: int, machine: object) -> None:
    """bash reads it, sbatch reads each value as it was given, and `touchline check` finds nothing wrong."""
    run = plans.made_run(hostile)
    compute = ComputeConfig(executor="slurm", gpus_per_run=gpus, time_limit="2h")
    plan = plans.made_plan(run, compute=compute, machine=machine)
    slurm = SlurmSite(account=hostile, constraint=hostile, modules=(hostile,), python=hostile, cpus_per_run=4)
    text = run_files(plan, run, replace(plans.SITE, slurm=slurm, models_dir=hostile, cache_dir=hostile))[name]
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
            script("finetune.slurm", site=replace(plans.SITE, slurm=site))
    with pytest.raises(SlurmValueError):
        script("eval.slurm", plan=plans.made_plan(compute=ComputeConfig(qos=f"a{mark}b")))


def test_a_reason_cannot_end_its_comment() -> None:
    run = replace(
        plans.made_run(), time_limit_seconds=Missing(missing="no\nrm -r x"), peak_memory=Missing(missing="a\nb")
    )
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
    return replace(plans.SITE, python=str(python), models_dir="/m d", cache_dir="/c'd")


def test_bash_starts_the_supervisor_in_the_folder(tmp_path: Path, talking: Site) -> None:
    """Without environment modules, and with lines of the user's that read variables which are not set."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "finetune.yaml").touch()
    slurm = SlurmSite(modules=("a", "b c"), setup=('export X="$NOT_SET"', "echo set up >&2"))
    text = script("finetune.slurm", plan=plans.made_plan(compute=ComputeConfig()), site=replace(talking, slurm=slurm))
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


JOB = "#!/bin/bash\n#SBATCH --time=01:00:00\n"
FAULTS = {
    "no interpreter": ("#SBATCH --time=01:00:00\nhostname\n", 2148),
    "Windows line ends": ((JOB + "hostname\n").replace("\n", "\r\n"), 1017),
    "spaces around =": (JOB + "HF_HUB_OFFLINE = 1\n", 2283),
    "broken continuation": (JOB + "python train.py \\ \n  --lr 1e-4\n", 1101),
    "open quote": (JOB + 'python train.py --out "a\n', 1073),
}


def fake_shellcheck(folder: Path, comments: list[dict[str, object]]) -> str:
    program = folder / "shellcheck"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps({'comments': comments})}\nE\nexit 1\n")
    program.chmod(0o755)
    return str(program)


def test_levels_become_severities_and_a_code_is_reported_once(tmp_path: Path) -> None:
    def comment(code: int, level: str, line: int = 3) -> dict[str, object]:
        return {"code": code, "level": level, "line": line, "column": 1, "message": f"text of {code}"}

    comments = [comment(1101, "error"), comment(1101, "error", 9), comment(2068, "error"), comment(2164, "warning")]
    comments.append(comment(2148, "error", 1))
    findings = list(
        shell_findings(
            read_script(JOB + "hostname\n", "job.slurm", launch_commands()), fake_shellcheck(tmp_path, comments)
        )
    )
    assert {each.subject: each.severity for each in findings} == {
        "SC1101": Severity.ERROR,
        "SC2068": Severity.WARNING,
        "SC2164": Severity.INFO,
        "SC2148": Severity.ERROR,
    }
    assert {each.code for each in findings} == {"SL052"}
    assert [each.where and each.where.line for each in findings] == [3, 3, 3, 1]
    assert len(findings) == 4


def test_an_answer_that_is_not_shellchecks_is_no_finding(tmp_path: Path) -> None:
    program = tmp_path / "shellcheck"
    program.write_text("#!/bin/sh\necho broken\nexit 2\n")
    program.chmod(0o755)
    script = read_script(JOB + "hostname\n", "job.slurm", launch_commands())
    assert list(shell_findings(script, str(program))) == []
    assert list(shell_findings(script, str(tmp_path / "gone"))) == []


def test_bash_finds_syntax_errors_where_shellcheck_is_missing() -> None:
    texts = [JOB + 'echo "open\n', JOB + "if true; then\nhostname\n"]
    for text in texts:
        (finding,) = shell_findings(read_script(text, "job.slurm", launch_commands()), None)
        assert (finding.code, finding.severity) == ("SL052", Severity.ERROR)
    for text in (JOB + "hostname\n", JOB + "echo {{ name }} (\n", "#!/usr/bin/env python\nprint(\n"):
        assert list(shell_findings(read_script(text, "job.slurm", launch_commands()), None)) == []


@pytest.mark.skipif(find_shellcheck() is None, reason="ShellCheck is not installed")
def test_the_real_shellcheck_finds_what_our_own_rules_found() -> None:
    shellcheck = find_shellcheck()
    for name, (text, code) in FAULTS.items():
        found = {e.subject: e for e in shell_findings(read_script(text, "job.slurm", launch_commands()), shellcheck)}
        assert f"SC{code}" in found, (name, found)
        assert found[f"SC{code}"].severity is Severity.ERROR, name


def test_a_check_without_shellcheck_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "find_shellcheck", lambda: None)
    for name in ("a.slurm", "b.slurm"):
        (tmp_path / name).write_text(textwrap.dedent(JOB + "hostname\n"))
    settings = UserConfig(models_dir=tmp_path, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    messages: list[str] = []
    api.check([tmp_path], settings, CheckRequest(), messages.append)
    assert messages == [NOT_CHECKED]
