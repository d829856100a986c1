"""mega_job.slurm carried out: order, chains, the time that is left, failures, signals, and going on."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import parametrize, refusal
from tests.run.allocation import StandIn, evaluation, make_evaluation, make_run, stage

from touchline.core.errors import InputError
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.value_types import SlurmSite
from touchline.run.scripts.header import SlurmValueError
from touchline.run.scripts.mega import TICK, Allocation, MegaStage, mega_text

pytestmark = [pytest.mark.planning, pytest.mark.slow]

SITE = SlurmSite(signal_seconds=20)


def _write(root: Path, stages: list[MegaStage], **allocation: object) -> None:
    asked = {"gpus_per_node": 2, "cpus_per_node": 8, "seconds": 600.0} | allocation
    text = mega_text("seed4", stages, Allocation(**asked), SITE)
    quicker = text.replace(f"read -r -t {TICK} ", "read -r -t 0.1 ")
    assert quicker != text
    (root / "mega_job.slurm").write_text(quicker)


def _started(text: str) -> list[str]:
    return re.findall(r"^\S+ \S+  started  (.*) on \S+, at most", text, re.MULTILINE)


def _states(text: str) -> dict[str, str]:
    rows = re.findall(r"^(.{40}) (done|failed|left|blocked) ", text[text.rindex("\nstage ") :], re.MULTILINE)
    return {name.strip(): state for name, state in rows}


def test_stages_start_in_order_and_no_gpu_is_used_twice(tmp_path: Path) -> None:
    """More stages than GPUs: the first ones start, each later one when a GPU falls free; one of two GPUs finds both."""
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2})
    names = ["c", "a", "b", "wide"]
    for name in names:
        make_run(root, name, seconds=0.3)
    _write(root, [stage("c"), stage("a"), stage("b"), stage("wide", gpus=2)])
    done = stand_in.run(root)
    assert done.returncode == 0, done.stdout
    assert stand_in.faults() == []
    assert _started(done.stdout) == ["c", "a", "b", "wide"]
    assert _states(done.stdout) == dict.fromkeys(names, "done")
    held: dict[int, str] = {}
    for event in stand_in.events():
        if "start" in event:
            for gpu in event["gpus"]:
                assert gpu not in held
                held[gpu] = str(event["name"])
        else:
            held = {gpu: name for gpu, name in held.items() if name != event["name"]}


@pytest.mark.thorough
def test_each_stage_has_its_own_evidence(tmp_path: Path) -> None:
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2})
    make_run(root, "a")
    make_evaluation(root, "a")
    _write(root, [stage("a"), evaluation("a")])
    assert stand_in.run(root, job=81).returncode == 0
    found = json.loads((root / "a" / "status" / "exit.81.0.0.json").read_text())
    assert (found["job_id"], found["code"]) == ("81.0", 0)
    found = json.loads((root / "a" / "eval" / "status" / "exit.81.1.0.json").read_text())
    assert (found["job_id"], found["code"]) == ("81.1", 0)
    assert "GPUs 0 in" in (root / "a" / "slurm-81.0.out").read_text()


def test_a_failed_stage_stops_its_own_chain_only(tmp_path: Path) -> None:
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2})
    make_run(root, "one_s1", code=3, complete=False)
    for name in ("one_s2", "one_s3", "two_s1", "two_s2"):
        make_run(root, name)
    _write(
        root,
        [
            stage("one_s1"),
            stage("two_s1"),
            stage("one_s2", ("one_s1",)),
            stage("one_s3", ("one_s2",)),
            stage("two_s2", ("two_s1",)),
        ],
    )
    done = stand_in.run(root)
    assert done.returncode == 1
    assert _states(done.stdout) == {
        "one_s1": "failed",
        "one_s2": "blocked",
        "one_s3": "blocked",
        "two_s1": "done",
        "two_s2": "done",
    }
    assert "exit code 3" in done.stdout
    assert not (root / "one_s2" / "status").exists()


@pytest.mark.thorough
def test_a_stage_that_failed_in_its_last_line_has_trained(tmp_path: Path) -> None:
    """The artefacts decide, not the exit code; and 0 without artefacts is a failure."""
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2})
    make_run(root, "late", code=1)
    make_run(root, "child")
    make_run(root, "liar", complete=False)
    _write(root, [stage("late"), stage("liar"), stage("child", ("late",))])
    done = stand_in.run(root)
    assert done.returncode == 1
    assert _states(done.stdout) == {"late": "done", "liar": "failed", "child": "done"}


def test_a_stage_starts_only_if_its_upper_end_fits_the_time_left(tmp_path: Path) -> None:
    """80 s are kept for saving; what does not fit is left with what builds on it, and a later call does it."""
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2}, seconds=300)
    for name in ("long", "child", "short"):
        make_run(root, name)
    stages = [stage("long", upper=400), stage("child", ("long",)), stage("short", upper=10)]
    _write(root, stages)
    done = stand_in.run(root)
    assert done.returncode == 75
    assert _started(done.stdout) == ["short"]
    assert _states(done.stdout) == {"long": "left", "child": "left", "short": "done"}
    assert "continue with sbatch mega_job.slurm" in done.stdout
    stand_in.seconds = 600
    again = stand_in.run(root)
    assert again.returncode == 0
    assert _started(again.stdout) == ["long", "child"]
    assert "before this allocation" in again.stdout


def test_usr1_has_stages_save_and_the_next_call_goes_on(tmp_path: Path) -> None:
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2})
    for name in ("a", "b", "c"):
        make_run(root, name, seconds=60)
    _write(root, [stage("a"), stage("b"), stage("c")])
    done = stand_in.run(root, usr1_once=("a", "b"))
    assert done.returncode == 75
    assert _started(done.stdout) == ["a", "b"]
    assert _states(done.stdout) == {"a": "left", "b": "left", "c": "left"}
    assert (root / "a" / "resume").exists()
    [end] = (root / "a" / "status").glob("exit.7.*.json")
    assert json.loads(end.read_text())["code"] == 75
    make_run(root, "c")
    again = stand_in.run(root, job=8)
    assert again.returncode == 0
    assert _states(again.stdout) == dict.fromkeys("abc", "done")


@pytest.mark.thorough
def test_a_signal_that_comes_while_the_script_waits_for_a_program_is_heard(tmp_path: Path) -> None:
    """Bash 5.2 reads a trap that comes due within $(...) as a part of it: none of it runs, and the loop ends."""
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2})
    for name in ("a", "b", "c"):
        make_run(root, name, seconds=60)
    _write(root, [stage("a"), stage("b"), stage("c")])
    stand_in.signal_with("tr", ("a", "b"))
    done = stand_in.run(root)
    assert done.returncode == 75
    assert "USR1: no more stages start, 2 running stages are asked to save and stop" in done.stdout
    assert _states(done.stdout) == dict.fromkeys("abc", "left"), done.stdout
    assert (root / "b" / "resume").exists()


@pytest.mark.thorough
def test_a_node_is_never_left(tmp_path: Path) -> None:
    """Two nodes of two GPUs: a stage of two waits for a whole node, and single ones fill one node first."""
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 2, "n2": 2})
    for name in ("a", "w", "b", "v"):
        make_run(root, name, seconds=0.3)
    _write(root, [stage("a"), stage("w", gpus=2), stage("b"), stage("v", gpus=2)], nodes=2)
    done = stand_in.run(root)
    assert done.returncode == 0, done.stdout
    assert stand_in.faults() == []
    assert _started(done.stdout) == ["a", "w", "b", "v"]
    nodes = {event["name"]: event["node"] for event in stand_in.events() if "node" in event}
    assert nodes["a"] == nodes["b"] != nodes["w"]


@pytest.mark.thorough
@parametrize(
    "gpus, asked",
    (0, {"gpus_per_node": 0, "cpus_per_node": 4}),
    (4, {"gpus_per_node": 4, "memory_gb_per_node": 4.0}),
    ids=["CPUs", "memory"],
)
def test_of_three_stages_two_have_room_at_once(tmp_path: Path, gpus: int, asked: dict[str, float]) -> None:
    """CPUs decide without GPUs, and memory where it is told; of `a` and `b`, neither ends before the other began."""
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": gpus})
    for name, until in (("a", "../b/began"), ("b", "../a/began"), ("c", ".")):
        make_run(root, name, until=until)
    stages = [stage(name, gpus=min(gpus, 1), cpus=1 if gpus else 2) for name in ("a", "b", "c")]
    _write(root, [replace(each, memory_gb=1.5 if gpus else 0.0) for each in stages], **asked)
    done = stand_in.run(root)
    assert done.returncode == 0, done.stdout
    assert ["start" if "start" in event else "end" for event in stand_in.events()][:3] == ["start", "start", "end"]
    assert ("gpus" in (root / "mega_job.slurm").read_text().split("set -uo")[0]) is (gpus > 0)


@pytest.mark.thorough
def test_an_evaluation_is_done_again_when_what_it_evaluates_is_newer(tmp_path: Path) -> None:
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 1})
    make_run(root, "a")
    make_evaluation(root, "a")
    _write(root, [stage("a"), evaluation("a")], gpus_per_node=1)
    assert stand_in.run(root).returncode == 0
    assert stand_in.run(root, job=8).returncode == 0
    assert stand_in.started() == set()
    (root / "a" / "training.json").touch()
    assert stand_in.run(root, job=9).returncode == 0
    assert stand_in.started() == {"evaluate a"}


@pytest.mark.thorough
def test_a_held_folder_is_left_and_told(tmp_path: Path) -> None:
    """Another job trains the run: nothing is done twice, and nothing is called a failure."""
    root, stand_in = tmp_path / "exp", StandIn(tmp_path, {"n1": 1})
    make_run(root, "a")
    script = root / "a" / "finetune.slurm"
    script.write_text("exit 76\n")
    _write(root, [stage("a")], gpus_per_node=1)
    done = stand_in.run(root)
    assert done.returncode == 75
    assert "another attempt holds a" in done.stdout


@pytest.mark.thorough
def test_hostile_names_stay_names(tmp_path: Path) -> None:
    names = {"it's", "a b", '"q"', "$(touch x)", "`x`", "a;b", "%J", "-n"}
    root, stand_in = tmp_path / "exp's $HOME", StandIn(tmp_path, {"n1": 1})
    for name in names:
        make_run(root, name)
    _write(root, [stage(name) for name in sorted(names)], gpus_per_node=1)
    done = stand_in.run(root)
    assert done.returncode == 0, done.stdout
    assert stand_in.started() == names
    assert {path.name for path in root.iterdir()} == {*names, "mega_job.slurm"}


def test_outside_a_job_it_says_how_to_run_it(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    _write(tmp_path, [stage("a")])
    clean = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "mega_job.slurm"], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "sbatch mega_job.slurm" in done.stderr


def test_what_could_never_start_is_refused_all_at_once() -> None:
    stages = [stage("slow", upper=600), stage("wide", gpus=3), stage("hungry", cpus=9), stage("ok")]
    caught = refusal(mega_text, "x", stages, Allocation(gpus_per_node=2, cpus_per_node=8, seconds=600), SITE)
    for words in ("slow may take 10:00", "wide needs 3 GPUs, but a node has 2", "hungry needs 9 CPUs"):
        assert words in caught.message
    assert "ok" not in caught.message
    with pytest.raises(InputError, match="two stages"):
        mega_text("x", [stage("a"), stage("a")], Allocation(gpus_per_node=2, seconds=600), SITE)
    with pytest.raises(InputError, match="no runs left"):
        mega_text("x", [], Allocation(gpus_per_node=2, seconds=600), SITE)


def test_the_header_asks_for_all_at_once() -> None:
    site = SlurmSite(account="lab 1", gpu_type="a100", signal_seconds=120, options=("--mail-type=FAIL",))
    compute = ComputeConfig(partition="long")
    asked = Allocation(nodes=2, gpus_per_node=4, cpus_per_node=32, memory_gb_per_node=240, seconds=6 * 3600)
    text = mega_text("seed4", [stage("a")], asked, site, compute)
    header = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert header == [
        "#SBATCH --job-name=seed4-mega",
        "#SBATCH --output=slurm-mega-%j.out",
        "#SBATCH --open-mode=append",
        "#SBATCH --account='lab 1'",
        "#SBATCH --partition=long",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=32",
        "#SBATCH --mem=240G",
        "#SBATCH --gpus-per-node=a100:4",
        "#SBATCH --time=6:00:00",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --mail-type=FAIL",
    ]
    with pytest.raises(SlurmValueError):
        mega_text("a\nb", [stage("a")], asked, site)


def test_cpus_follow_from_the_gpus_where_nobody_said() -> None:
    """Every GPU of a node can be used at once, whatever is known of CPUs."""
    stages = [replace(stage(name), cpus=0) for name in "abcd"]
    text = mega_text("x", stages, Allocation(gpus_per_node=4, cpus_per_node=32, seconds=600), SITE)
    assert text.count("finetune.slurm 1 8 0 30") == len(stages)
    text = mega_text("x", stages, Allocation(gpus_per_node=4, seconds=600), SITE)
    assert "#SBATCH --cpus-per-task=4" in text
