"""Experiments on a real SLURM by the commands that people type: run, resume, submit, status, cancel; and bad input."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import CHAIN, command, environment, make_chain, make_experiment, touchline
from tests.api.harm import plant
from tests.cases import some, until
from tests.slurm.cluster import LIMITED_QOS, Cluster

from touchline.core.status import EXIT_PARENT_NOT_READY, JobState
from touchline.run.folders import ExperimentFolder
from touchline.run.ledger import LedgerEntry, read_ledger
from touchline.run.statusfiles import read_attempts

pytestmark = pytest.mark.slurm
ONCE = "train.epochs=1"
SMALL = (ONCE, "train.micro_batch_size=4", "train.packed=false", "evaluate.samples=4", "controls=[]")
LIMITS = "time_limit: 2h, evaluation: {time_limit: 2h}"
"""Planned limits are those of a free machine, and this one is busy."""
ON_SLURM = f"compute={{executor: slurm, gpu: cpu, {LIMITS}}}"
WEIRD = 'it\'s an "experiment"\nwith $HOME; `ls` ünd'
CONFIG = "slurm: {partition: gpu, cpus_per_run: 1, memory_gb: 2, poll_seconds: 0.3}\n"
RUN, EVALUATION, CONTROL = "1M_rank2", "evaluate 1M_rank2", "evaluate 1M_base"
EASY, HARD = "1M_rank4_easy", "1M_rank4_hard"
OTHERWISE = (
    *("seconds", "seconds_per_step", "_per_second", "_minutes", "started_unix", "started", "completed"),
    *("peak_memory", "mean_memory", "gpu_utilization", "sampled", "log_sha256", "job_id"),
)
"""What two runs of the same thing need not have in common: times, memory, the hash of a log that holds both, ids."""


class Site:
    """A person on a cluster: `touchline ...` with a config file, models, caches and a history of their own."""

    def __init__(self, cluster: Cluster, root: Path, model: Path) -> None:
        self.cluster, self.root = cluster, root
        (root / "models").mkdir()
        (root / "models" / "Tiny-1M-Instruct").symlink_to(model)
        config = root / "config" / "touchline" / "config.yaml"
        config.parent.mkdir(parents=True)
        config.write_text(CONFIG)

    def variables(self) -> dict[str, str]:
        """The environment of a command that is typed now."""
        own = {"XDG_CONFIG_HOME": str(self.root / "config"), "TOUCHLINE_HISTORY_DIR": str(self.root / "history")}
        return environment(self.root / "models", self.root / "cache") | self.cluster.environment | own

    def call(self, verb: str, folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Type a command, which must end with this code, and never with a traceback."""
        done = touchline(verb, str(folder), *arguments, env=self.variables(), cwd=self.root)
        assert done.returncode == code, f"{verb}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, verb: str, folder: Path, *arguments: str) -> Any:
        return json.loads(self.call(verb, folder, *arguments, "--json").stdout)

    @contextmanager
    def no_room(self) -> Iterator[Callable[[], None]]:
        """Both nodes are somebody else's, until what this gives is called, or the block ends."""
        words = ("--parsable", "--exclusive", "--nodes=2", f"--output={os.devnull}", "--wrap=sleep 600")
        blocker = self.cluster.ask("sbatch", *words, cwd=self.root)

        def leave() -> None:
            self.cluster.ask("scancel", blocker)

        until(lambda: self.cluster.ask("squeue", "-h", "-j", blocker, "-o", "%t") == "R")
        try:
            yield leave
        finally:
            leave()

    def states(self, folder: Path) -> Counter[str]:
        """States of the jobs that SLURM has, from an experiment's folder."""
        lines = self.cluster.ask("squeue", "-h", "-o", "%T %Z").splitlines()
        return Counter(line.split()[0] for line in lines if str(folder) in line)


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> Site:
    return Site(cluster, tmp_path, tiny_model)


def small(site: Site, name: str = "exp", ranks: str = "[2]") -> Path:
    return make_experiment(site.root / name, ranks=ranks, n_train=48, n_test=8)


def results(site: Site, folder: Path) -> list[Any]:
    def same(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: same(value) for key, value in item.items() if not key.endswith(OTHERWISE)}
        return [same(each) for each in item] if isinstance(item, list) else item

    found: list[Any] = same(site.json("results", folder)["runs"])
    return found


def events(folder: Path, event: str) -> list[LedgerEntry]:
    return [entry for entry in read_ledger(folder / "ledger.jsonl") if entry.event == event]


def submissions(folder: Path) -> Counter[str]:
    """How often each job was submitted; every id is another one, and every intent has its end."""
    taken = events(folder, "submitted")
    assert len({entry.job_id for entry in taken}) == len(taken)
    ends = {entry.token for event in ("submitted", "refused", "not submitted") for entry in events(folder, event)}
    assert {entry.token for entry in events(folder, "intent")} == ends
    return Counter(entry.job for entry in taken)


def starts(folder: Path) -> list[str]:
    """Start files of every attempt, at trainings and evaluations, also of those that were moved aside."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("start.*.json"))


def test_submit_and_status_to_the_report(site: Site) -> None:
    folder = small(site)
    site.call("plan", folder, *SMALL, ON_SLURM)
    assert [job["word"] for job in site.json("submit", folder)["jobs"]] == ["submitted"] * 2
    until(lambda: {run["status"] for run in site.json("status", folder)["runs"]} == {"completed"})
    assert not site.json("submit", folder)["jobs"]
    assert submissions(folder) == {RUN: 1, EVALUATION: 1}
    site.call("report", folder)
    assert RUN in (folder / "RESULTS.md").read_text()


@pytest.mark.thorough
def test_a_run_on_slurm_gives_what_it_gives_here(site: Site) -> None:
    """In a folder with a hostile name, and with room for two jobs at a time: bit for bit the same losses and answers.

    Both use one thread of one machine; on another processor, or with other threads, sums may be rounded otherwise.
    """
    here, folder = small(site), small(site, WEIRD)
    site.call("run", here, ONCE)
    done = site.call("run", folder, ONCE, ON_SLURM, f"compute.qos={LIMITED_QOS}")
    assert results(site, folder) == results(site, here)
    assert submissions(folder) == {RUN: 1, EVALUATION: 1, CONTROL: 1}
    assert [path.split(".")[0] for path in starts(folder)] == [
        "1M_base/eval/status/start",
        "1M_rank2/eval/status/start",
        "1M_rank2/status/start",
    ]
    refused = events(folder, "refused")
    assert refused
    assert {entry.job for entry in refused} == {CONTROL}
    assert "QOSMaxSubmitJobPerUserLimit" in refused[0].reason
    assert "refused" not in done.stderr
    assert {entry.state for entry in events(folder, "ended")} == {"COMPLETED"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["50%% of %j, %A %x %5j", r"back\slash and %j"])
def test_a_folder_whose_name_means_something_to_slurm(site: Site, name: str) -> None:
    """Its jobs write into it, by touchline and by submit_all.sh, and are found again: nothing is submitted twice."""
    folder, by_hand = small(site, f"a {name}"), small(site, f"b {name}")
    site.call("run", folder, *SMALL, ON_SLURM)
    assert submissions(folder) == {RUN: 1, EVALUATION: 1}
    assert {run["status"] for run in site.json("status", folder)["runs"]} == {"completed"}
    site.call("plan", by_hand, *SMALL, ON_SLURM)
    site.call("prepare", by_hand)
    script = ["bash", str(by_hand / "submit_all.sh")]
    first = subprocess.run(script, env=site.variables(), capture_output=True, text=True, check=True)
    assert len(first.stdout.splitlines()) == 2
    again = subprocess.run(script, env=site.variables(), capture_output=True, text=True, check=True)
    assert again.stdout == ""
    until(lambda: any((by_hand / RUN / "eval").glob("*.scores.json")))
    until(lambda: not site.states(by_hand).keys() & {"PENDING", "RUNNING", "COMPLETING"})
    assert {run["status"] for run in site.json("status", by_hand)["runs"]} == {"completed"}
    after = subprocess.run(script, env=site.variables(), capture_output=True, text=True, check=True)
    assert after.stdout == ""
    for each in (folder, by_hand):
        outputs = [path.name for path in (each / RUN).glob("slurm-*.out") if path.stat().st_size]
        assert len(outputs) == 2, outputs


@pytest.mark.thorough
def test_a_killed_chain_is_finished_by_resume(site: Site) -> None:
    """KILL to the command while the parent trains: jobs go on, the child behind its parent; exiting."""
    folder = make_chain(site.root / "chain", CHAIN.replace("controls: [base]", "controls: []"))
    words = command("run", str(folder), ON_SLURM)
    with subprocess.Popen(words, env=site.variables(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        until(lambda: any((folder / EASY / "status").glob("start.*")) and len(events(folder, "submitted")) == 4)
        first.kill()
    ids = {entry.job: entry.job_id for entry in events(folder, "submitted")}
    assert site.cluster.ask("squeue", "-h", "-j", ids[HARD], "-o", "%E").startswith(f"afterany:{ids[EASY]}")
    assert not events(folder, "ended")
    site.call("resume", folder)
    lineage = json.loads((folder / HARD / "lineage.json").read_text())
    assert abs(lineage["loss"]["found"] / lineage["loss"]["recorded"] - 1) <= 1e-3
    assert lineage["file_tensors_sha256"] == lineage["model_tensors_sha256"]
    assert {run["status"] for run in site.json("status", folder, "--no-queue")["runs"]} == {"completed"}
    assert not site.json("submit", folder)["jobs"]
    assert submissions(folder) == {EASY: 1, HARD: 1, f"evaluate {EASY}": 1, f"evaluate {HARD}": 1}
    assert len(starts(folder)) == 4


@pytest.mark.thorough
def test_a_child_without_its_parent_ends_at_once_with_the_reason(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent fails twice the same way; what builds on it is stopped, and later calls submit none of it."""
    plant(site.root / "planted", monkeypatch, raise_at="2")
    folder = make_chain(site.root / "chain", CHAIN.replace("controls: [base]", "controls: []"))
    done = site.call("run", folder, ON_SLURM, code=1)
    assert len(read_attempts(folder / EASY / "status")) == 2
    ends = [attempt.exit for attempt in read_attempts(folder / HARD / "status")]
    assert ends
    assert {end.code for end in ends if end is not None} == {EXIT_PARENT_NOT_READY}
    said = [line for line in done.stderr.splitlines() if f"note: {HARD}: stopped" in line]
    assert len(said) == 1
    assert EASY in done.stderr.split(said[0])[1].split("note:")[0] + said[0]
    assert "the weights of layer 3 went away" in done.stderr
    before = submissions(folder)
    site.call("resume", folder, code=1)
    assert submissions(folder) == before


@pytest.mark.thorough
def test_out_of_memory_is_planned_smaller_also_of_a_sibling(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 do not fit, 2 do: each run is planned and submitted smaller, with the same global batch."""
    plant(site.root / "planted", monkeypatch, oom_above="2")
    folder = small(site, ranks="[2, 4]")
    site.call("run", folder, *SMALL, ON_SLURM)
    plan = ExperimentFolder(folder).read_plan()
    for run in some(plan.runs):
        assert (run.train.micro_batch_size, run.train.global_batch_size) == (2, 8)
        assert run.batches.gradient_accumulation_steps == 4
    (aside,) = (folder / RUN / "superseded").iterdir()
    assert [attempt.state for attempt in read_attempts(aside / "status")] == [JobState.OUT_OF_MEMORY]
    for name in (RUN, "1M_rank4"):
        assert [attempt.state for attempt in read_attempts(folder / name / "status")] == [JobState.COMPLETED]
    assert {run["status"] for run in site.json("status", folder, "--no-queue")["runs"]} == {"completed"}


@pytest.mark.thorough
def test_what_is_cancelled_is_submitted_again_and_nothing_else(site: Site) -> None:
    """submit, status, cancel --run, submit: two ids for what was cancelled, one for the others; --all ends all."""
    folder = small(site, ranks="[2, 4]")
    with site.no_room():
        site.call("plan", folder, ONCE, ON_SLURM)
        jobs = site.json("submit", folder)["jobs"]
        assert [job["word"] for job in jobs] == ["submitted"] * 5
        assert site.states(folder) == {"PENDING": 5}
        runs = {run["name"]: run for run in site.json("status", folder)["runs"]}
        assert {run["status"] for run in runs.values()} == {"queued"}
        assert runs[RUN]["queue_reason"]
        assert site.call("cancel", folder, "--run", RUN).stdout.splitlines() == [RUN, EVALUATION]
        assert site.states(folder) == {"PENDING": 3}
        again = {job["job"]: job["word"] for job in site.json("submit", folder)["jobs"]}
        there = "already in the queue"
        assert again == {
            RUN: "submitted",
            EVALUATION: "submitted",
            "1M_rank4": there,
            "evaluate 1M_rank4": there,
            CONTROL: there,
        }
        assert submissions(folder) == {RUN: 2, EVALUATION: 2, "1M_rank4": 1, "evaluate 1M_rank4": 1, CONTROL: 1}
        assert site.states(folder) == {"PENDING": 5}
        asked = [entry.job for entry in events(folder, "cancel requested")]
        assert asked == [RUN, EVALUATION]
        assert len(site.call("cancel", folder, "--all").stdout.splitlines()) == 5
        assert not site.states(folder)
    assert not starts(folder)


@pytest.mark.thorough
def test_of_an_unknown_partition_nothing_is_submitted(site: Site) -> None:
    """Tried with `--test-only` and shown once for each kind of job, with what to type; one of the two suffices."""
    folder, other = small(site), small(site, "other")
    config = site.root / "config" / "touchline" / "config.yaml"
    config.write_text(CONFIG.replace("gpu", "nowhere"))
    # The control's job asks for the same as the evaluation.
    for verb, words in (("run", (*SMALL[:-1], ON_SLURM)), ("resume", ()), ("submit", ())):
        done = site.call(verb, folder, *words, code=1)
        assert "no job submitted" in done.stderr
        assert 1 <= done.stderr.count("error US131") <= 2
        assert done.stderr.count("invalid partition specified: nowhere") == done.stderr.count("error US131")
        assert "--partition=nowhere" in done.stderr
        assert "set slurm.partition in the config file (partitions: sinfo -s)" in done.stderr
        assert not events(folder, "intent")
    config.write_text(CONFIG)
    site.call("plan", other, *SMALL, "compute={executor: slurm, gpu: cpu, evaluation: {partition: nowhere}}")
    done = site.call("submit", other, code=1)
    assert done.stderr.count("error US131") == 1
    assert f"SLURM rejects 1 job ({EVALUATION})" in done.stderr
    assert not events(other, "intent")
    assert {run["status"] for run in site.json("status", folder)["runs"]} == {"prepared"}


@pytest.mark.thorough
def test_nodes_that_are_drained_stop_no_submission(site: Site) -> None:
    """`--test-only` refuses then what sbatch takes, and what waits until the nodes are back."""
    folder = small(site)
    for node in site.cluster.nodes:
        site.cluster.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=maintenance")
    try:
        site.call("plan", folder, *SMALL, ON_SLURM)
        assert {job["word"] for job in site.json("submit", folder)["jobs"]} == {"submitted"}
        site.call("cancel", folder, "--all")
    finally:
        for node in site.cluster.nodes:
            site.cluster.ask("scontrol", "update", f"nodename={node}", "state=resume")


@pytest.mark.thorough
def test_over_a_limit_the_rest_comes_later(site: Site) -> None:
    """`submit` hands over what is taken, says what waits and ends well; `slurm.max_submitted` spares the refusals."""
    folder = small(site)
    with site.no_room():
        site.call("plan", folder, ONCE, ON_SLURM, f"compute.qos={LIMITED_QOS}")
        for words in (["submitted", "submitted", "later"], ["already in the queue"] * 2 + ["later"]):
            done = site.call("submit", folder, "--json")
            assert [job["word"] for job in json.loads(done.stdout)["jobs"]] == words
            assert "1 jobs deferred (queue limit); rerun later: touchline submit" in done.stderr
        assert len(events(folder, "refused")) == 2
        (site.root / "config" / "touchline" / "config.yaml").write_text(CONFIG.replace("}", ", max_submitted: 2}"))
        done = site.call("submit", folder)
        assert "2 jobs are in the queue" in done.stdout
        assert len(events(folder, "refused")) == 2
        site.call("cancel", folder, "--all")
