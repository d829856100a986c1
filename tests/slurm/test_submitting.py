"""Submitting to a real SLURM what it does not want, what is there already, and what two want at once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier

import pytest
from tests.cases import parametrize, until
from tests.slurm.bench import Recorder, attempts_of, starts_of, write_run
from tests.slurm.cluster import LIMITED_JOBS, LIMITED_QOS, Cluster

from touchline.core.errors import (
    HostError,
    SubmissionLimitError,
    SubmissionRejectedError,
    SubmissionUnknownError,
    TouchlineError,
)
from touchline.core.status import JobState
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, LedgerEntry, read_ledger
from touchline.run.loaded_plan import experiment_lock
from touchline.run.queue import begin
from touchline.run.slurm import SlurmExecutor
from touchline.slurm.job_view import JobView

pytestmark = [pytest.mark.slurm, pytest.mark.thorough]
WAIT_SECONDS = 90.0
POLL_SECONDS = 0.3
HOSTILE = ("with a space", 'it\'s a "run"', "two\nlines", "$HOME `id` $(id); rm -rf x | ünd", "a|pipe, 100%")


class Site:
    """An experiment's folder on a cluster, and an executor for it."""

    def __init__(self, cluster: Cluster, root: Path, *, patient: bool = True) -> None:
        self.cluster = cluster
        self.root = root
        self.recorder = Recorder(cluster.commands(patient=patient))
        self.ledger = Ledger(root / "ledger.jsonl", "slurm")
        self.executor = self.another()

    def another(self) -> SlurmExecutor:
        """The executor of a process that begins now."""
        return SlurmExecutor(self.recorder, self.ledger.path, poll_seconds=POLL_SECONDS)

    def begin(self, job: Job) -> str:
        return begin(job, self.executor, self.ledger)

    def until(self, job: Job, true: Callable[[JobView], bool]) -> JobView:
        """Look until it is so; that it never is, is the failure."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            view = self.executor.query_jobs([job]).get(job.name)
            if view is not None and true(view):
                return view
            assert time.monotonic() < end, view
            time.sleep(POLL_SECONDS)

    def events(self, job: Job) -> list[LedgerEntry]:
        return [entry for entry in read_ledger(self.ledger.path) if entry.job == job.name]

    def queued(self, states: str = "all") -> list[str]:
        """Ids of the jobs that SLURM has, from this experiment's folder."""
        text = self.cluster.ask("squeue", "-h", "-t", states, "-o", "%i %Z")
        return [line.split()[0] for line in text.splitlines() if str(self.root) in line]


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Site:
    return Site(cluster, tmp_path)


@parametrize(
    "directive, words",
    ("--partition=nowhere", ("nowhere", "partition")),
    ("--account=nobody", ("account",)),
    ("--qos=none-such", ("qos",)),
    ("--gpus=1000", ("configuration",)),
    ("--mem=wrong", ("mem",)),
)
def test_what_sbatch_refuses_is_closed_in_the_ledger(directive: str, words: tuple[str, ...], site: Site) -> None:
    """One clear message, no job, an intent that a refusal follows; and once fixed, the run is submitted."""
    job = write_run(site.root / "refused", "finish", [directive])
    with pytest.raises(SubmissionRejectedError) as caught:
        site.begin(job)
    for word in words:
        assert word in caught.value.message.lower()
    assert "\n" not in caught.value.message
    intent, refused = site.events(job)
    assert (intent.event, refused.event) == ("intent", "refused")
    assert intent.token == refused.token != ""
    assert refused.reason
    # A job that no node could ever run gets an id all the same, and has failed at once.
    assert site.queued("PD,CF,R,CG") == []
    view = site.executor.query_jobs([job]).get(job.name)
    assert view is None or not view.active
    script = job.folder / "finetune.slurm"
    script.write_text(script.read_text().replace(f"#SBATCH {directive}\n", ""))
    site.begin(job)
    assert site.until(job, lambda view: not view.active).state is JobState.COMPLETED


def test_over_the_limit_is_not_now_rather_than_no(site: Site) -> None:
    """SubmissionLimitError, an intent that is closed, and the same job is taken when another has ended."""
    directives = [f"--qos={LIMITED_QOS}"]
    taken = [write_run(site.root / f"run{number}", "wait", directives) for number in range(LIMITED_JOBS)]
    for job in taken:
        site.begin(job)
    late = write_run(site.root / "late", "finish", directives)
    with pytest.raises(SubmissionLimitError) as caught:
        site.begin(late)
    assert "QOSMaxSubmitJobPerUserLimit" in caught.value.message
    assert [entry.event for entry in site.events(late)] == ["intent", "refused"]
    assert len(site.queued()) == LIMITED_JOBS
    for job in taken:
        (job.folder / "go").touch()
        site.until(job, lambda view: not view.active)
    # SLURM lowers its counts a moment after a job's end.
    _begin_when(site, late, SubmissionLimitError)
    assert site.until(late, lambda view: not view.active).state is JobState.COMPLETED


def _begin_when(site: Site, job: Job, *not_yet: type[HostError]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            site.begin(job)
        except not_yet:
            assert time.monotonic() < end
            time.sleep(POLL_SECONDS)
        else:
            return


def test_a_folder_s_name_breaks_nothing(site: Site) -> None:
    """Spaces, quotes, newlines, pipes: each job is submitted, seen and ended as its own; one is cancelled."""
    jobs = [write_run(site.root / name, "finish", name=f"run{n}") for n, name in enumerate(HOSTILE)]
    stopped = write_run(site.root / 'to be\n"stopped"|', "wait", name="stopped")
    ids = {job.name: site.begin(job) for job in (*jobs, stopped)}
    assert len(set(ids.values())) == len(ids)
    site.until(stopped, lambda view: bool(starts_of(stopped)))
    site.executor.stop([stopped])
    for job in (*jobs, stopped):
        view = site.until(job, lambda view: not view.active)
        assert view.job_id == ids[job.name]
        assert view.state is (JobState.CANCELLED if job is stopped else JobState.COMPLETED)
        assert starts_of(job) == [f"{view.job_id}.0"]
    later = site.another().query_jobs(jobs)
    assert {view.state for view in later.values()} == {JobState.COMPLETED}
    assert len(later) == len(jobs)


@pytest.mark.parametrize("pending", [True, False], ids=["pending", "running"])
def test_a_job_that_was_submitted_by_hand_is_adopted(pending: bool, site: Site) -> None:
    """`sbatch finetune.slurm` in the folder: `look` finds it, and `begin` waits for it instead of submitting."""
    job = write_run(site.root / HOSTILE[2], "wait", ["--begin=now+1hour"] if pending else [], name="run")
    by_hand = site.cluster.ask("sbatch", "--parsable", "finetune.slurm", cwd=job.folder)
    wanted = JobState.PENDING if pending else JobState.RUNNING
    view = site.until(job, lambda view: view.state is wanted)
    assert (view.job_id, view.active) == (by_hand, True)
    assert site.begin(job) == by_hand
    assert [entry.event for entry in site.events(job)] == ["adopted"]
    assert site.recorder.count("sbatch") == 0
    if pending:
        site.executor.stop([job])
    else:
        (job.folder / "go").touch()
    end = site.until(job, lambda view: not view.active)
    assert (end.job_id, end.state) == (by_hand, JobState.CANCELLED if pending else JobState.COMPLETED)


def test_a_job_that_was_submitted_twice_by_hand_works_once(site: Site) -> None:
    """The second one ends at once with 76, and what is told is how the one that works stands."""
    job = write_run(site.root / "run", "wait")
    first = site.cluster.ask("sbatch", "--parsable", "finetune.slurm", cwd=job.folder)
    site.until(job, lambda view: bool(starts_of(job)))
    twin = site.cluster.ask("sbatch", "--parsable", "finetune.slurm", cwd=job.folder)
    until((job.status / f"exit.{twin}.0.json").exists)
    for _ in range(5):
        view = site.executor.query_jobs([job])[job.name]
        assert (view.job_id, view.state, view.active) == (first, JobState.RUNNING, True)
        time.sleep(POLL_SECONDS)
    (job.folder / "go").touch()
    view = site.until(job, lambda view: not view.active)
    assert (view.job_id, view.state) == (first, JobState.COMPLETED)
    assert starts_of(job) == [f"{first}.0"]
    assert attempts_of(job) == ("0 completed",)


@pytest.mark.parametrize("locked", [True, False], ids=["one machine", "two machines"])
def test_two_submitters_of_one_folder_make_one_job(locked: bool, site: Site) -> None:
    """On one machine the experiment's lock lets one of them in. Where no lock reaches the other, the run's own does."""
    (site.root / "experiment.yaml").touch()
    job = write_run(site.root / "run", "wait")
    barrier = Barrier(2)

    def submit(executor: SlurmExecutor) -> str:
        barrier.wait()
        try:
            with experiment_lock(ExperimentFolder(site.root)) if locked else nullcontext():
                return begin(job, executor, Ledger(site.ledger.path, "slurm"))
        except TouchlineError as fault:
            return fault.message

    with ThreadPoolExecutor() as pool:
        said = list(pool.map(submit, [site.another(), site.another()]))
    until(lambda: bool(starts_of(job)))
    until(lambda: len(site.queued("PD,R,CG")) == 1)
    (job.folder / "go").touch()
    view = site.until(job, lambda view: not view.active)
    assert view.state is JobState.COMPLETED
    assert view.job_id in said
    assert starts_of(job) == [f"{view.job_id}.0"]
    if locked:
        # The one that came second found the experiment held, or the job there already.
        assert len(site.queued()) == 1
        assert len(set(said)) == 1 or any("another touchline command" in text for text in said)


def test_without_a_controller_nothing_is_lost_and_nothing_is_doubled(cluster: Cluster, tmp_path: Path) -> None:
    """The controller cannot be reached: it is said so, nothing is started, and a later try submits one job."""
    site = Site(cluster, tmp_path, patient=False)
    job = write_run(site.root / "run", "finish")
    site.cluster.stop_controller()
    try:
        with pytest.raises(SubmissionLimitError, match="not submitted now"):
            site.begin(job)
        assert starts_of(job) == []
    finally:
        site.cluster.start_controller()
    _begin_when(site, job, SubmissionLimitError, SubmissionUnknownError)
    view = site.until(job, lambda view: not view.active)
    assert view.state is JobState.COMPLETED
    assert starts_of(job) == [f"{view.job_id}.0"]
    assert len(site.queued()) == 1


def test_a_lost_database_changes_no_state(site: Site) -> None:
    """slurmdbd is away while a job ends: what was said stays, and the end is right when it is back."""
    failing, silent = write_run(site.root / "failing", "fail"), write_run(site.root / "silent", "die in silence")
    site.cluster.stop_accounting()
    try:
        for job in (failing, silent):
            site.begin(job)
        assert site.until(failing, lambda view: not view.active).state is JobState.FAILED
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            view = site.executor.query_jobs([silent]).get(silent.name)
            assert view is not None
            assert view.active or view.state in (JobState.UNKNOWN, JobState.FAILED)
            time.sleep(POLL_SECONDS)
    finally:
        site.cluster.start_accounting()
    view = site.until(silent, lambda view: not view.active)
    assert view.state is JobState.UNKNOWN
    assert site.executor.query_jobs([failing])[failing.name].exit_code == 3
