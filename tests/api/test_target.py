"""Plans for a cluster: its GPUs, job limits, and the script of one allocation."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.api.folders import environment, make_experiment, touchline
from tests.cases import refusal, some
from tests.run.made_plans import GPU, made_plan

from touchline import api
from touchline.core.errors import InputError
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.data.machine import machine_here
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import gpu_names, similar_gpus
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.requests import Cluster, PlaceRequest
from touchline.experiment.value_types import SlurmSite
from touchline.plan.local.target import device_findings, request_type, resolve_target
from touchline.run.allocation import MEGA, Placed, allocation_of, place_experiment, write_allocation
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan
from touchline.slurm.local.commands import CommandResult

pytestmark = pytest.mark.planning


ON_SLURM = ComputeConfig(executor="slurm")
ROW = "{name}|up|1-00:00:00|1:00:00|2|32|64000|{gres}\n"


@dataclass
class PlayedCluster:
    """sinfo, played."""

    said: str | CommandResult
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, words: Sequence[str], **how: object) -> CommandResult:
        self.asked.append(tuple(words))
        assert words[0] == "sinfo"
        assert how["timeout_seconds"]
        return self.said if isinstance(self.said, CommandResult) else CommandResult(code=0, out=self.said, err="")


def refused(said: str | CommandResult, compute: ComputeConfig = ON_SLURM, site: SlurmSite | None = None) -> str:
    """Everything that the one error of a target says."""
    (found,) = refusal(resolve_target, compute, site or SlurmSite(), PlayedCluster(said)).findings
    assert found.code == "US133"
    assert found.subject == "compute.gpu"
    return f"{found.message} | {found.hint}"


def rows(**partitions: str) -> str:
    return "".join(ROW.format(name=name, gres=gres) for name, gres in partitions.items())


def test_without_a_gpu_the_error_lists_what_the_cluster_offers() -> None:
    cases = [
        (rows(gpu="gpu:a100:8(S:0-1)"), ["a100 (A100-40GB or A100-80GB): 8 per node in gpu", "compute.gpu=A100-80GB"]),
        (rows(gpu="gpu:h100_80gb:4"), ["h100_80gb (H100): 4 per node in gpu", "compute.gpu=H100"]),
        (rows(gpu="gpu:8"), ["GPUs of no named type: 8 per node in gpu", "nvidia-smi -L"]),
        (rows(a="gpu:v100:2", b="gpu:v100:4,gpu:t4:1"), ["v100", "2 per node in a, 4 per node in b", "t4 (T4)"]),
        (rows(gpu="gpu:nvidia_a100_80gb_pcie:2,shard:16"), ["nvidia_a100_80gb_pcie (A100-80GB): 2 per node"]),
        (rows(cpu="(null)", shard="shard:8,mps:100"), ["no GPUs in any partition (cpu, shard)", "compute.gpu=cpu"]),
        ("", ["sinfo lists no partition", "compute.gpu=A100-80GB"]),
        ("garbage\n|||\n", ["unknown here", "compute.gpu=cpu"]),
        (
            CommandResult(code=1, out="", err="sinfo: error: slurm_load_partitions"),
            ["slurm_load_partitions", "compute.gpu="],
        ),
        (
            CommandResult(code=None, out="", err="sinfo: No such file or directory"),
            ["No such file", "H200", "compute.gpu=cpu"],
        ),
    ]
    for said, words in cases:
        told = refused(said)
        for word in words:
            assert word in told, (said, word, told)
        assert "compute.gpu=cpu" in told, told
    # The partition of the jobs decides, and says so where it has none.
    two = rows(old="gpu:v100:2", new="gpu:h100:8", cpu="(null)")
    assert "v100" not in refused(two, ComputeConfig(executor="slurm", partition="new"))
    assert "v100" not in refused(two, ON_SLURM, SlurmSite(partition="new"))
    assert "none in the partition cpu" in refused(two, ON_SLURM, SlurmSite(partition="cpu"))


def test_a_type_in_the_config_file_names_the_gpu_as_far_as_it_is_one() -> None:
    silent = PlayedCluster(CommandResult(code=None, out="", err="not asked"))
    for kind, constraint, name in (
        ("h100_80gb", None, "H100"),
        ("nvidia_a100_80gb_pcie", None, "A100-80GB"),
        ("a100", "a100&80gb", "A100-80GB"),
        ("a100", "intel&40gb", "A100-40GB"),
        ("l40s", "80gb", "L40S"),
    ):
        found = resolve_target(ON_SLURM, SlurmSite(gpu_type=kind, constraint=constraint), silent)
        assert (found.machine.name, found.machine.source) == (name, "slurm.gpu_type"), kind
    assert not silent.asked
    assert "A100-40GB and A100-80GB" in refused("", ON_SLURM, SlurmSite(gpu_type="a100"))
    for unknown in ("mi210", "a100_1g.5gb", "2080ti"):
        assert "not a GPU with known figures" in refused("", ON_SLURM, SlurmSite(gpu_type=unknown)), unknown


def test_jobs_that_ask_for_another_type_than_is_planned_for_are_refused() -> None:
    told = refused("", ComputeConfig(executor="slurm", gpu="H100"), SlurmSite(gpu_type="a100"))
    assert "plans for H100, and the jobs ask for 'a100'" in told
    for kind in ("h100", "h100_80gb", "mystery"):
        assert (
            resolve_target(ComputeConfig(executor="slurm", gpu="H100"), SlurmSite(gpu_type=kind)).machine.name == "H100"
        )


def test_a_cpu_is_planned_for_only_on_purpose() -> None:
    for compute in (
        ComputeConfig(executor="slurm", gpu="cpu", cpus_per_run=6),
        ComputeConfig(executor="slurm", gpu="CPU", gpus_per_run=4, cpus_per_run=6),
        ComputeConfig(executor="slurm", gpus_per_run=0, cpus_per_run=6),
    ):
        machine = resolve_target(compute, SlurmSite(), PlayedCluster("")).machine
        assert (machine.kind, machine.threads) == ("cpu", 6)
        assert compute.gpus == 0
        assert "in place of the nodes'" in machine.source
    assert resolve_target(ComputeConfig(gpu="cpu"), SlurmSite()).machine.kind == "cpu"


def test_an_unknown_gpu_gets_the_list_and_what_it_may_mean() -> None:
    for name, meant in (("H1OO", "H100"), ("A100", "A100-80GB"), ("a100-90gb", "A100-80GB"), ("L4OS", "L40S")):
        assert meant in str(refusal(resolve_target, ComputeConfig(gpu=name), SlurmSite()).hint), name
    caught = refusal(resolve_target, ComputeConfig(gpu="abacus"), SlurmSite())
    assert all(known in caught.message for known in gpu_names())
    # A type is never taken for a GPU that merely begins alike.
    assert [similar_gpus(kind) for kind in ("a100_1g.5gb", "1g.10gb", "2080ti", "b300", "")] == [()] * 5
    assert similar_gpus("l4") == ("L4",)


def test_jobs_that_may_get_another_gpu_than_is_planned_for() -> None:
    def found(
        said: str | CommandResult, site: SlurmSite | None = None, gpu: str = "A100-80GB"
    ) -> list[tuple[str, str]]:
        compute, site = ComputeConfig(executor="slurm", gpu=gpu), site or SlurmSite()
        target = resolve_target(compute, site, PlayedCluster(said))
        target, findings = request_type(target, compute, site, None, PlayedCluster(said))
        asked.append(target.machine.requested_type)
        return [(each.code, str(each.hint)) for each in findings]

    asked: list[str | None] = []
    mixed = ROW.format(name="gpu*", gres="gpu:a100:4,gpu:v100:2")
    assert found(mixed) == []
    assert found(ROW.format(name="gpu*", gres="gpu:a100:4,gpu:a100_80gb:4")) == []
    assert asked == ["a100", "a100_80gb"]
    assert found(mixed, SlurmSite(gpu_type="a100")) == []
    assert found(mixed, SlurmSite(constraint="a100&80gb")) == []
    ((code, hint),) = found(mixed, gpu="H100")
    assert (code, hint.split(",")[0]) == ("US133", "compute.gpu=A100-80GB")
    # Another partition's GPUs are not the jobs'.
    two = mixed + rows(new="gpu:h100:8")
    assert found(two, SlurmSite(partition="new"), "H100") == []
    assert [code for code, _ in found(two, SlurmSite(partition="gpu"), "H100")] == ["US133"]
    # What has no type, or one that nobody knows, may be anything: the plan says what it could not ask for.
    for said, name in (("gpu:4", "NAME"), ("gpu:mystery:4", "mystery")):
        assert found(ROW.format(name="gpu*", gres=said)) == [
            ("US134", f"slurm.gpu_type: {name} in the user's config file")
        ]
    lines = [f"sinfo: error: resolve_ctls_from_dns_srv: {each}" for each in ("res_nsearch", "no SRV", "no address")]
    absent = CommandResult(code=1, out="", err="\n".join([*lines, "sinfo: fatal: Could not establish a source"]))
    assert found(absent) == [("US134", "slurm.gpu_type: NAME in the user's config file")]
    target = resolve_target(ComputeConfig(gpu="A100-80GB"), SlurmSite())
    _, (finding,) = request_type(target, ON_SLURM, SlurmSite(), None, PlayedCluster(absent))
    assert len(finding.message) <= 160
    assert "sinfo" in finding.message
    assert found("", SlurmSite(gpu_type="a100")) == found("", SlurmSite(constraint="a100&80gb")) == []


@pytest.mark.slow
def test_a_plan_for_another_machine_does_not_run_here(site: dict[str, str], tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", n_train=32)
    for verb, more in (("run", ["compute.gpu=H100"]), ("resume", [])):
        done = touchline(verb, str(folder), *more, env=site)
        assert done.returncode == 3, (verb, done.stderr)
        assert "the plan is for H100 (compute.gpu), but this machine has" in done.stderr
        assert "compute.gpu=auto" in done.stderr
    assert not list(folder.glob("*/metrics.jsonl"))
    done = touchline("plan", str(folder), "compute.gpus_per_run=2", "compute.gpu=auto", env=site)
    assert done.returncode == 2
    assert "this machine has no GPU" in " ".join(done.stderr.split())


def gpu(count: int) -> TargetMachine:
    return TargetMachine(
        kind="gpu", name="H100", memory=Missing(missing="x"), count=count, base_dtype="bfloat16", source="this machine"
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, models: Path) -> dict[str, str]:
    """The environment of a login node whose sinfo lists GPUs."""
    root = tmp_path_factory.mktemp("login")
    (root / "bin").mkdir()
    sinfo = root / "bin" / "sinfo"
    sinfo.write_text("#!/bin/sh\necho 'gpu*|up|1-00:00:00|1:00:00|2|32|64000|gpu:a100:4'\n")
    sinfo.chmod(0o755)
    env = environment(models, root / "cache", root / "history")
    return env | {"PATH": f"{root / 'bin'}:{os.environ['PATH']}"}


def test_devices_that_nothing_uses_are_an_error() -> None:
    here = machine_here(0)
    cases: list[tuple[ComputeConfig, TargetMachine, str]] = [
        (ComputeConfig(gpus_per_run=9, gpu="H100", executor="slurm"), gpu(9), "'peft' uses 8 GPUs per run"),
        (ComputeConfig(gpus_per_run=9, gpu="cpu"), here, "'peft' uses 8 processes per run"),
        (ComputeConfig(gpus_per_run=4), here, "this machine has no GPU"),
        (ComputeConfig(gpus_per_run=0, gpu="H100"), gpu(1), "the runs would use a CPU"),
        # Planned for another machine, but what would start is one of this machine's.
        (ComputeConfig(gpus_per_run=2, gpu="H100"), gpu(1), "this machine has 1 GPU"),
    ]
    for compute, machine, words in some(cases):
        (found,) = device_findings(compute, ["peft"], machine, None)
        assert found.code == "BK003"
        assert words in found.message
        assert found.hint
    # A trainer of several devices is still held against the machine.
    for machine, words in ((gpu(2), "this machine has 2 GPUs"), (here, "this machine has no GPU")):
        (found,) = device_findings(ComputeConfig(gpus_per_run=3), ["peft"], machine, None)
        assert words in found.message
    for fine in (ComputeConfig(), ComputeConfig(gpus_per_run=0), ComputeConfig(gpu="cpu", gpus_per_run=3)):
        assert not list(device_findings(fine, ["peft"], here, None))


@pytest.mark.slow
def test_every_verb_refuses_to_plan_a_cluster_for_the_login_node(site: dict[str, str], tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", n_train=32)
    yaml = folder / "experiment.yaml"
    text = yaml.read_text()
    yaml.write_text(text + "compute: {executor: slurm}\n")
    for verb in ("check", "plan", "run"):
        done = touchline(verb, str(folder), env=site)
        assert done.returncode == (1 if verb == "check" else 2), (verb, done.stdout, done.stderr)
        said = done.stdout + done.stderr
        assert "US133" in said, (verb, said)
        assert "a100 (A100-40GB or A100-80GB): 4 per node in gpu" in " ".join(said.split())
        assert f"{yaml}:{len(yaml.read_text().splitlines())}" in said
        assert "Traceback" not in said
    assert not (folder / "plan.json").exists()
    done = touchline("plan", str(folder), "compute.gpu=A100-80GB", env=site)
    assert done.returncode == 0, done.stderr
    assert "A100-80GB" in done.stdout
    assert touchline("check", str(folder), "--gpu", "A100-80GB", env=site).returncode == 0
    # A plan of an earlier version, made for the login node's CPU, starts nothing either.
    old = json.loads((folder / "plan.json").read_text())
    machine = machine_here(0)
    old["machine"] = {**old["machine"], "kind": "cpu", "name": machine.name, "threads": 2}
    old["compute"]["gpu"] = "auto"
    (folder / "plan.json").write_text(json.dumps(old))
    for verb in ("prepare", "submit", "resume"):
        done = touchline(verb, str(folder), env=site)
        assert done.returncode == 2, (verb, done.stdout, done.stderr)
        assert "US133" in done.stderr
    # And all of it together with the other faults of the file.
    (folder / "plan.json").unlink()
    yaml.write_text(text.replace("Tiny-1M-Instruct", "Nowhere-1B") + "compute: {executor: slurm, gpus_per_run: 9}\n")
    said = touchline("plan", str(folder), env=site).stderr
    assert "US133" in said
    assert "BK003" in said
    assert "Nowhere-1B" in said


@pytest.mark.slow
def test_evaluations_have_a_time_and_a_limit_before_anything_was_measured(site: dict[str, str], tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", n_train=32)
    on = ("compute={executor: slurm, gpu: A100-80GB}", "evaluate.epochs=all")
    done = touchline("plan", str(folder), *on, env=site | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "history")})
    assert done.returncode == 0, done.stderr
    runs = json.loads((folder / "plan.json").read_text())["runs"]
    for run in runs:
        spent, limit = run["evaluate_seconds"], run["evaluate_limit_seconds"]
        assert 0 < spent["low"] < spent["value"] < spent["high"], run["name"]
        assert limit["value"] >= spent["high"] + run["evaluate_startup_seconds"]["high"]
        assert limit["value"] == 900
    trained, base = runs[0], runs[-1]
    assert trained["evaluate_seconds"]["method"].startswith("2 evaluations of")
    assert base["train"] is None
    assert not base["evaluate_seconds"]["method"].startswith("2 evaluations of")
    hours = json.loads((folder / "plan.json").read_text())["gpu_hours"]
    parts = [run[key]["value"] for run in runs for key in ("evaluate_seconds", "evaluate_startup_seconds")]
    trainings = [run["train_seconds"]["value"] for run in runs if run["train"] is not None]
    assert hours["value"] == pytest.approx(sum(parts + trainings) / 3600)


def on_a_cluster(root: Path, own: str = "") -> Path:
    """An experiment of one run for an A100 of a cluster."""
    folder = make_experiment(root / "tiny", ranks="[2]", n_train=48)
    with (folder / "experiment.yaml").open("a") as stream:
        stream.write(f"compute: {{executor: slurm, gpu: A100-80GB{own}}}\n")
    return folder


def scripts_times(folder: Path) -> dict[str, tuple[str, ...]]:
    """`--time` of the scripts in each run's folder, the training's first."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob("*/*.slurm"), key=lambda path: path.name, reverse=True):
        time = re.search(r"^#SBATCH --time=(.+)$", path.read_text(), re.MULTILINE)
        assert time is not None, path
        found[path.parent.name] = (*found.get(path.parent.name, ()), time[1])
    return found


@pytest.mark.parametrize(
    ("own", "training", "evaluation"),
    [
        ("", "0:15:00", "0:15:00"),
        (", time_limit: 90s", "0:02:00", "0:15:00"),
        (", evaluation: {time_limit: 4min}", "0:15:00", "0:04:00"),
        (", time_limit: 20h, evaluation: {time_limit: 1h}", "20:00:00", "1:00:00"),
    ],
)
def test_limits_have_a_floor_unless_the_user_sets_them_and_scripts_have_the_plans(
    tmp_path: Path, settings: UserConfig, own: str, training: str, evaluation: str
) -> None:
    """A tiny model's training takes seconds, and imports from a cold file system minutes."""
    folder = on_a_cluster(tmp_path, own)
    api.plan(folder, settings)
    api.prepare(folder, settings)
    assert scripts_times(folder) == {"1M_rank2": (training, evaluation), "1M_base": (evaluation,)}


def test_a_start_over_a_network_takes_half_a_minute_to_three(tmp_path: Path, settings: UserConfig) -> None:
    """On this machine it takes some seconds, of a training and of an evaluation."""
    folder = make_experiment(tmp_path / "tiny", ranks="[2]", n_train=48)
    for executor, low, high in (("local", 1, 30), ("slurm", 25, 200)):
        plan = api.plan(folder, settings, [f"compute={{executor: {executor}, gpu: A100-80GB}}"]).plan
        run = plan.runs[0]
        for found in (run.time_parts["start-up"], run.evaluate_startup_seconds):
            assert isinstance(found, Quantity)
            assert found.low is not None
            assert found.high is not None
            assert low <= found.low < found.high <= high


@pytest.mark.slow
def test_workers_are_compared_with_the_cpus_that_runs_have_when_they_share_a_node(
    tmp_path: Path, settings: UserConfig
) -> None:
    """Four runs on a node of 32 CPUs have 8 each; a job of its own asks for all that its workers need."""
    folder = on_a_cluster(tmp_path)
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("train:\n", "train:\n  dataloader_workers: 16\n"))
    api.plan(folder, settings)
    api.prepare(folder, settings)
    assert "#SBATCH --cpus-per-task=18\n" in (folder / "1M_rank2" / "finetune.slurm").read_text()
    env = environment(settings.models_dir, settings.cache_dir)
    for cpus, noted in (("32", True), ("128", False)):
        done = touchline("place", str(folder), "--gpus", "4", "--cpus-per-node", cpus, env=env)
        assert done.returncode == 0, done.stderr
        assert ("train.dataloader_workers=7" in " ".join((done.stdout + done.stderr).split())) is noted


SITE = SlurmSite(signal_seconds=120, partition="gpu")
CLUSTER = Cluster(gpus=2, cpus=16)


@pytest.fixture
def planned(tmp_path: Path) -> LoadedPlan:
    """Two trainings, a stage behind the first, a control; all their scripts are there."""
    (tmp_path / "experiment.yaml").touch()
    folder = ExperimentFolder(tmp_path)
    plan = made_plan(machine=GPU)
    for run in plan.runs:
        folder.run(run.name).mkdir()
        (folder.run(run.name) / "finetune.slurm").touch()
        (folder.run(run.name) / "eval.slurm").touch()
    return LoadedPlan(plan=plan, folder=folder, changed=False)


def _placed(planned: LoadedPlan, deadline: float | None = 360) -> Placed:
    return place_experiment(planned, SITE, PlaceRequest(cluster=CLUSTER, deadline_minutes=deadline))


def test_one_allocation_in_order_of_priority(planned: LoadedPlan) -> None:
    placed = _placed(planned)
    path, _ = write_allocation(placed, SITE)
    assert path.name == MEGA
    text = path.read_text()
    assert "#SBATCH --time=6:00:00" in text
    assert "#SBATCH --gpus-per-node=2" in text
    assert "#SBATCH --partition=gpu" in text
    names = [line.split(" ")[1] for line in text.splitlines() if line.startswith("stage ") and "(" not in line]
    ranks = {slot.id: slot.priority for slot in placed.placement.schedule}
    in_order = sorted(ranks, key=lambda name: ranks[name])
    assert [name.strip("'").split("'")[0] for name in names] == [name.split(" ")[0] for name in in_order]
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert path.stat().st_mode & 0o111


def test_an_allocation_has_a_time_and_whole_nodes(planned: LoadedPlan) -> None:
    placed = _placed(planned, None)
    with pytest.raises(InputError, match="needs a time"):
        write_allocation(placed, SITE)
    text = write_allocation(placed, SITE, 240)[0].read_text()
    assert "#SBATCH --time=4:00:00" in text
    with pytest.raises(InputError, match="never start in"):
        write_allocation(placed, SITE, 60)
    with pytest.raises(InputError, match="whole nodes"):
        allocation_of(Cluster(gpus=6, gpus_per_node=4), 60, needs_gpus=True)
    assert allocation_of(Cluster(gpus=8, gpus_per_node=4), 60, needs_gpus=True).nodes == 2


def test_what_is_not_prepared_is_not_emitted(planned: LoadedPlan) -> None:
    (planned.folder.root / "1M_rank4" / "finetune.slurm").unlink()
    assert "touchline prepare" in str(refusal(write_allocation, _placed(planned), SITE).hint)


def test_a_file_that_somebody_has_changed_is_left(planned: LoadedPlan) -> None:
    placed = _placed(planned)
    path, _ = write_allocation(placed, SITE)
    path.write_text("mine\n")
    assert MEGA in write_allocation(placed, SITE)[1][0]
    assert path.read_text() == "mine\n"


def test_durations_of_a_processor_are_said_to_be_that(planned: LoadedPlan) -> None:
    assert _placed(planned).notes == ()
    plan = replace(planned.plan, machine=made_plan().machine)
    assert len(_placed(replace(planned, plan=plan)).notes) == 1
