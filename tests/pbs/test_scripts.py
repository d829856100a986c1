"""PBS in the rest of touchline: scripts, plan, report and settings name it, and SLURM's stay as they are."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.pbs.fake import FakePbs, read_options
from tests.run.made_plans import GPU, SITE, made_plan, made_run

from touchline.core.errors import InputError
from touchline.data.user_config import load_settings
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Plan
from touchline.experiment.site import SlurmSite
from touchline.plan.sections import folder_lines
from touchline.run.scripts.experiment import experiment_files
from touchline.run.scripts.folder import run_files

pytestmark = pytest.mark.planning
CLUSTER = replace(SITE, slurm=SlurmSite(account="lab", partition="gpu", cpus_per_run=4, options=("-m ae",)))


@pytest.fixture
def plan() -> Plan:
    """A plan for PBS."""
    compute = ComputeConfig(executor="pbs", gpu="A100-80GB", memory_gb_per_run=32)
    return replace(made_plan(made_run()), executor="pbs", compute=compute, machine=GPU)


def test_a_script_asks_for_what_is_planned_and_saves_before_its_walltime(plan: Plan) -> None:
    """The training is asked to save 120 s before the limit, also before another one that comes with the submission."""
    text = run_files(plan, plan.runs[0], CLUSTER)["finetune.pbs"]
    lines = [line.removeprefix("#PBS ") for line in text.splitlines() if line.startswith("#PBS ")]
    assert "-l select=1:ncpus=4:ngpus=1:mem=32gb" in lines
    assert "-l walltime=1:30:00" in lines
    assert {"-A lab", "-q gpu", "-m ae", "-r y"} <= {*lines}
    assert len(read_options([word for line in lines for word in line.split()])) == len(lines)
    assert (
        "TOUCHLINE_TIME_LIMIT_SECONDS=$((${TOUCHLINE_WALLTIME_SECONDS:-5400} - 120)) TOUCHLINE_KILL_SECONDS=120" in text
    )
    assert "SBATCH" not in text.replace("SBATCH_", "")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_pbs_is_named_where_slurm_would_be(plan: Plan) -> None:
    """In the folder's preview, its README and its scripts; squeue's own script is not written."""
    files = {**experiment_files(plan, CLUSTER), **run_files(plan, plan.runs[0], CLUSTER)}
    told = "\n".join([*folder_lines(plan), files["README.md"], files["finetune.pbs"], files["eval.pbs"]])
    assert not {"submit_all.sh", "finetune.slurm", "eval.slurm"} & {*files}
    assert "qsub finetune.pbs" in told
    assert "qdel JOBID" in told
    for word in ("sbatch", "squeue", "scancel", "SLURM", ".slurm"):
        assert word not in told


def test_a_script_runs_in_its_folder_and_its_output_is_seen_at_once(plan: Plan, tmp_path: Path) -> None:
    """qsub starts a copy elsewhere; what the script says lies in the run's folder under the job's number."""
    run = tmp_path / "run with a blank"
    run.mkdir()
    text = run_files(plan, plan.runs[0], replace(CLUSTER, python="false"))["finetune.pbs"]
    (run / "finetune.pbs").write_text(text.replace("exec false", "echo here: $PWD; exec false"))
    (run / "finetune.yaml").touch()
    with FakePbs(tmp_path / "server") as server:
        taken = server.run(["qsub", "-N", "a", "finetune.pbs"], timeout_seconds=9, cwd=run)
        assert taken.out == "1000.pbs\n"
        job = server.jobs["1000"]
        while job.state != "F":
            time.sleep(0.05)
    assert f"here: {run}" in (run / "slurm-1000.out").read_text()
    assert job.exit_status == 1


def test_settings_of_pbs_are_a_key_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "touchline" / "config.yaml"
    path.parent.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path.write_text("pbs:\n  partition: gpuq\n  options: ['-m ae']\nslurm:\n  partition: gpu\n")
    settings = load_settings()
    assert settings.cluster("pbs").partition == "gpuq"
    assert settings.cluster("slurm").partition == "gpu"
    path.write_text("pbs:\n  qos: short\n  options: ['-N mine', '--mail-type=FAIL']\n")
    with pytest.raises(InputError) as refused:
        load_settings()
    assert sorted(finding.subject for finding in refused.value.findings) == ["pbs.options", "pbs.options", "pbs.qos"]


def test_pbs_has_no_quality_of_service() -> None:
    with pytest.raises(ValueError, match="PBS has none"):
        ComputeConfig(executor="pbs", qos="short")
