"""`touchline doctor`: what it says of a cluster that a stand-in plays, and of real folders and interpreters."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import TypeAdapter
from typer.testing import CliRunner

from touchline.cli.cluster import doctor
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.value_types import SlurmSite
from touchline.lint.rule import all_pages
from touchline.slurm.local.commands import CommandResult, RealCommands, query_cluster
from touchline.slurm.site_facts import DoctorCheck, DoctorReport, PythonFacts
from touchline.tools import doctor as steps
from touchline.tools.doctor import (
    inspect_folder,
    python_there,
    run_doctor,
    trial_options,
)
from touchline.tools.doctor_cluster import check_cluster

pytestmark = pytest.mark.planning

CONFIG = """\
AccountingStorageType   = accounting_storage/slurmdbd
AccountingStorageEnforce = associations,limits,qos
KillWait                = 30 sec
MaxJobCount             = 10000
MinJobAge               = 300 sec
SLURM_VERSION           = 22.05.8
"""
SINFO = "gpu*|up|1-00:00:00|1:00:00|2|32|64000|gpu:a100:4\ncpu|down|2:00|n/a|1|8|16000|(null)\n"


@dataclass
class Cluster:
    """Answers in SLURM's place."""

    answers: dict[str, str | CommandResult] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, words: Sequence[str], **how: object) -> CommandResult:
        assert how["timeout_seconds"]
        self.asked.append(tuple(words))
        known = {
            "sinfo": SINFO,
            "scontrol show": CONFIG,
            "sacctmgr": "here|\n",
            "sbatch": CommandResult(code=0, out="", err="sbatch: Job 7 to start at 2026-01-02T00:00:00"),
        } | self.answers
        said = known[" ".join(words[:2]) if words[0] == "scontrol" else words[0]]
        return said if isinstance(said, CommandResult) else CommandResult(code=0, out=said, err="")


def look(
    site: SlurmSite | None = None, *, gpus_here: int = 1, **answers: str | CommandResult
) -> dict[str, DoctorCheck]:
    """The checks by name; of those with one name the worst."""
    site = site or SlurmSite()
    cluster = Cluster({name.replace("_", " ", 1): said for name, said in answers.items()})
    facts = query_cluster(cluster, trial_options(site, gpus=0))
    found: dict[str, DoctorCheck] = {}
    for each in check_cluster(facts, site, gpus_here=gpus_here):
        if each.name not in found or each.status != "ok":
            found[each.name] = each
        assert (each.status == "ok") == (each.code is None) == (each.hint is None)
        assert each.code is None or each.code in all_pages()
    return found


def verdicts(found: dict[str, DoctorCheck]) -> dict[str, str]:
    return {name: f"{each.status} {each.code}" for name, each in found.items() if each.status != "ok"}


def test_a_cluster_that_will_do() -> None:
    found = look(SlurmSite(account="chem", partition="gpu", qos="normal", gpu_type="a100"))
    assert verdicts(found) == {}
    assert "24:00:00" in found["partition"].message


def failed(words: str, code: int | None = 1) -> CommandResult:
    return CommandResult(code=code, out="", err=words)


DOWN = failed("slurm_load_partitions: Unable to contact slurm controller (connect failure)")
NO_DEFAULT = {"sinfo": SINFO.replace("*", "")}
UNACCOUNTED = {"scontrol_show": CONFIG.replace("accounting_storage/slurmdbd", "(null)")}
INVALID = "allocation failure: Invalid account or account/partition combination specified"
BUSY = "sbatch: error: Batch job submission failed: Socket timed out on send/recv"


@pytest.mark.parametrize(
    ("site", "how", "expected", "words"),
    [
        (SlurmSite(partition="gpuu"), {}, {"partition": "error US121"}, "did you mean 'gpu'?"),
        (SlurmSite(partition="x"), {}, {"partition": "error US121"}, "one of gpu, cpu"),
        (SlurmSite(partition="cpu"), {}, {"partition": "warning US121", "GPUs": "warning US122"}, ""),
        (SlurmSite(gpu_type="a100s"), {}, {"GPUs": "error US122"}, "did you mean 'a100'?"),
        (SlurmSite(), NO_DEFAULT, {"partition": "error US121"}, ""),
        (SlurmSite(partition="gpu"), NO_DEFAULT, {}, ""),
        (SlurmSite(), UNACCOUNTED, {"accounting": "warning US129"}, "5:00 (MinJobAge)"),
        (SlurmSite(), {"sacctmgr": failed("Connection refused")}, {"accounting": None}, "Connection refused"),
        (SlurmSite(), {"gpus_here": 0}, {"planning": "warning US133"}, ""),
        (SlurmSite(), {"sbatch": failed(INVALID)}, {"sbatch": "error US131"}, INVALID),
        (SlurmSite(), {"sbatch": failed("sbatch: no answer within 30 s", None)}, {"sbatch": "warning US120"}, ""),
        (SlurmSite(), {"sbatch": failed(BUSY)}, {"sbatch": "warning US120"}, ""),
        (
            SlurmSite(),
            dict.fromkeys(("sinfo", "scontrol_show", "scontrol_--oneliner", "sbatch"), DOWN),
            {"controller": "error US120"},
            "Unable to contact slurm controller",
        ),
    ],
)
def test_what_a_cluster_does_not_have_or_say(
    site: SlurmSite, how: dict[str, Any], expected: dict[str, str | None], words: str
) -> None:
    found = look(site, **how)
    wrong = verdicts(found)
    assert wrong.keys() == expected.keys()
    for name, verdict in expected.items():
        assert verdict in (None, wrong[name])
        assert words in f"{found[name].message} {found[name].hint}"


def test_a_job_is_tried_with_the_users_own_settings() -> None:
    site = SlurmSite(
        account="a b", partition="gpu", constraint="a100&80gb", gpu_type="a100", cpus_per_run=4, memory_gb=8.0,
        options=("--mail-type=FAIL", '--mail-user="me" --exclude=n1', "--broken='"),
    )  # fmt: skip
    assert trial_options(site, gpus=1) == [
        *("--account=a b", "--partition=gpu", "--constraint=a100&80gb", "--nodes=1", "--ntasks=1", "--gpus=a100:1"),
        *("--cpus-per-task=4", "--mem=8G", "--requeue", "--signal=B:USR1@120", "--mail-type=FAIL", "--mail-user=me"),
        *("--exclude=n1", "--broken='"),
    ]
    cluster = Cluster()
    query_cluster(cluster, ["--gpus=1"])
    assert cluster.asked[-1] == ("sbatch", "--test-only", "--gpus=1", "--wrap=true")


def test_who_waited_in_vain_for_the_controller_is_not_asked_again() -> None:
    """Each further command would wait its whole time too; what the accounting is slow in says nothing of sbatch."""
    slow = CommandResult(code=None, out="", err="sinfo: no answer within 30 s")
    cluster = Cluster({"sinfo": slow})
    facts = query_cluster(cluster, [])
    assert [words[0] for words in cluster.asked] == ["sinfo"]
    assert (facts.partitions, facts.taken) == ((), None)
    cluster = Cluster({"sacctmgr": slow})
    assert query_cluster(cluster, []).taken is True


# ---- this machine ----------------------------------------------------------------------------------------------------


def test_folders_that_can_be_written_and_locked(tmp_path: Path) -> None:
    facts = inspect_folder("cache_dir", tmp_path / "not" / "there", RealCommands())
    assert (facts.exists, facts.writable, facts.locks, facts.problem) == (False, True, True, None)
    assert isinstance(facts.free, Quantity)
    assert facts.free.value > 0
    assert list(tmp_path.iterdir()) == []
    facts = inspect_folder("history_dir", Path("/proc/nothing"), RealCommands())
    assert not facts.writable
    assert facts.problem


def test_another_interpreter_is_asked(tmp_path: Path) -> None:
    here = python_there(sys.executable, RealCommands())
    assert here.problem is None
    assert here.touchline is not None
    gone = python_there(str(tmp_path / "none"), RealCommands())
    assert gone.problem is not None
    talks = tmp_path / "talks"
    talks.write_text("#!/bin/sh\necho hello\n")
    talks.chmod(0o755)
    assert python_there(str(talks), RealCommands()).problem == "hello"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    """Settings on a machine without SLURM and without GPUs."""
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr(steps.shutil, "which", lambda name: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "models").mkdir()
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def by_name(report: DoctorReport) -> dict[str, DoctorCheck]:
    return {each.name: each for each in report.checks}


def test_a_laptop_needs_no_cluster(settings: UserConfig, tmp_path: Path) -> None:
    report = run_doctor(settings, tmp_path, RealCommands())
    assert report.cluster is None
    assert report.errors == 0
    assert by_name(report)["sbatch"].status == "ok"
    assert [folder.name for folder in report.folders] == ["models_dir", "cache_dir", "history_dir", "experiments"]
    data = json.loads(TypeAdapter(DoctorReport).dump_json(report))
    assert data["schema_version"] == 2
    assert TypeAdapter(DoctorReport).validate_python(data).checks == report.checks


def test_what_will_not_do_here_is_told(settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        steps, "python_here", lambda: PythonFacts(path="/p", version="3.11", packages={}, touchline="0.1")
    )
    broken = replace(
        settings,
        models_dir=tmp_path / "none",
        history_dir=Path("/proc/x"),
        slurm=SlurmSite(python=str(tmp_path / "no python")),
    )
    report = run_doctor(broken, tmp_path, RealCommands())
    found = {name: f"{each.status} {each.code}" for name, each in by_name(report).items() if each.status != "ok"}
    assert found == {"models_dir": "warning US112", "history_dir": "error US112", "slurm.python": "error US111"}
    alone = by_name(run_doctor(settings, tmp_path, RealCommands()))["interpreter"]
    assert (alone.status, alone.code) == ("warning", "US110")
    assert {each.code for each in report.checks if each.code} <= set(all_pages())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(steps, "query_nvidia_smi", lambda fields: ["0, GPU-1, NVIDIA H200, 143771 MiB"])
    facts = PythonFacts(path="/p", version="3.11", packages={"torch": "2.13.0+cpu"}, touchline="0.1")
    monkeypatch.setattr(steps, "python_here", lambda: facts)
    report = run_doctor(settings, tmp_path, RealCommands())
    assert report.gpus == ("NVIDIA H200, 143771 MiB", "GPU 1")
    assert by_name(report)["GPUs"].code == "US116"


def test_locks_and_space_of_folders(settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = inspect_folder("experiments", tmp_path, RealCommands())
    for changes, code in (
        ({"locks": False}, "US114"),
        ({"free": Quantity(value=1.0, unit="B"), "total_bytes": 1000}, "US113"),
    ):
        made = replace(real, **changes)  # type: ignore[arg-type]
        monkeypatch.setattr(steps, "inspect_folder", lambda name, path, commands, made=made: replace(made, name=name))
        assert by_name(run_doctor(settings, tmp_path, RealCommands()))["experiments"].code == code


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "options"), [("ok", []), ("warning", ["--json"]), ("error", [])])
def test_errors_end_the_command_with_one(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, options: list[str]
) -> None:
    """The table, or the report as JSON, on stdout; how many, on stderr."""
    code = None if status == "ok" else "US121"
    check = DoctorCheck(
        area="SLURM",
        name="x",
        status=status,
        message="m",
        code=code,
        hint=code and "do it",  # type: ignore[arg-type]
    )
    report = replace(run_doctor(settings, tmp_path, RealCommands()), checks=(check,))
    monkeypatch.setattr("touchline.api.doctor", lambda folder, settings: report, raising=False)
    app = typer.Typer()
    app.command()(doctor)
    done = CliRunner().invoke(app, [*options, str(tmp_path)])
    assert done.exit_code == (1 if status == "error" else 0)
    if options:
        assert json.loads(done.stdout)["checks"][0]["status"] == status
    else:
        assert ("do it" in done.stdout) == (status != "ok")
