"""The approved budget: no sequence of commands, kills, failures, clock jumps and changed plans can exceed it."""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.run.made_plans import GPU, LIMIT, NO_RUNS, made_control, made_plan, made_run
from tests.tiers import examples

from touchline.core.errors import InputError, PolicyError, SubmissionRejectedError
from touchline.core.status import AttemptExit, AttemptStart, JobState
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Plan
from touchline.plan.identity import plan_to_json
from touchline.run import budget as budgets
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job, model_evaluation, run_training
from touchline.run.ledger import Ledger
from touchline.run.queue import run_jobs
from touchline.run.slurm import SlurmExecutor
from touchline.run.statusfiles import write_exit, write_start
from touchline.slurm.job_view import JobView
from touchline.slurm.local.commands import CommandResult

pytestmark = pytest.mark.planning

NAMES = ("a", "b", "c")
MODEL = "Tiny-1M-Instruct"
GPUS = 2


def planned(rate: float = 1e-3, micro: int = 8, *, known: bool = True) -> Plan:
    """Three trainings on two GPUs each, limited by a prediction or not at all, and a control."""
    made = [made_run(name, limit=LIMIT if known else NO_RUNS) for name in NAMES]
    runs = [replace(r, train=replace(r.train, learning_rate=rate, micro_batch_size=micro)) for r in made if r.train]
    compute = ComputeConfig(executor="local", gpus_per_run=GPUS)
    return made_plan(*runs, made_control("base"), compute=compute, machine=GPU)


def folder_with(root: Path, plan: Plan) -> ExperimentFolder:
    (root / "experiment.yaml").write_text("name: cap_8L\n")
    (root / "plan.json").write_text(plan_to_json(plan))
    return ExperimentFolder(root)


class Killed(BaseException):
    """The command was killed; its jobs live on."""


@dataclass(kw_only=True)
class Started:
    job: Job
    job_id: str
    approval: str
    devices: int
    begun: float
    most: float
    takes: float
    state: JobState
    over: bool = False


class World:
    """Time and the jobs in it. Jobs outlive commands and end when their time has come."""

    def __init__(self, seed: int) -> None:
        self.seconds = 0.0
        self.jobs: list[Started] = []
        self.chance = random.Random(seed)
        self.kill_in = -1
        self.approved: dict[str, float] = {}

    def check(self) -> None:
        """Nothing exceeds its budget, even if every running job takes all that it may."""
        for approval, hours in self.approved.items():
            own = [each for each in self.jobs if each.approval == approval]
            seconds = sum(each.devices * (each.takes if each.over else each.most) for each in own)
            assert seconds <= 3600 * hours + 1e-6

    # A clock of a queue: monotonic, while the time of day jumps.
    def now(self) -> float:
        return self.chance.uniform(-1e9, 1e9)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        for each in self.jobs:
            if not each.over and self.seconds >= each.begun + each.takes:
                self._end(each)

    def step(self) -> None:
        """Count down to the kill of the command."""
        self.kill_in -= 1
        if self.kill_in == 0:
            raise Killed

    def _end(self, each: Started) -> None:
        each.over = True
        if each.state is JobState.UNKNOWN:
            return  # killed without a record
        code = {JobState.COMPLETED: 0, JobState.FAILED: 1, JobState.TIMEOUT: 75}[each.state]
        end = AttemptExit(
            job_id=each.job_id, restart=0, code=code, reason="", time_unix=self.now(), elapsed_seconds=each.takes
        )
        write_exit(each.job.status, end)


class FakeExecutor:
    """Starts jobs in the world; each takes up to its limit and the time to end."""

    name = "local"
    waits_itself = False
    find = None
    tick_seconds = 1800.0
    trouble = ""

    def __init__(self, world: World, approval: str) -> None:
        self._world, self._approval = world, approval

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        world = self._world
        world.step()
        assert job.is_limit_strict
        assert job.time_limit_seconds is not None
        if world.chance.random() < 0.1:
            raise SubmissionRejectedError("bash is not there")
        most = job.time_limit_seconds + budgets.GRACE_SECONDS
        takes = most * world.chance.choice([0.01, 0.5, 1.0])
        state = world.chance.choice([JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT, JobState.UNKNOWN])
        devices = 1 if job.name.startswith("evaluate") else GPUS
        started = Started(
            job=job, job_id=f"local-{token}", approval=self._approval, devices=devices, begun=world.seconds,
            most=most, takes=takes, state=state,
        )  # fmt: skip
        world.jobs.append(started)
        world.check()
        begun = AttemptStart(
            job_id=started.job_id, restart=0, token=token, host="h", boot_id="b", pid=1, pid_started=0.0,
            time_unix=world.now(),
        )  # fmt: skip
        if world.chance.random() < 0.8:
            write_start(job.status, begun)
        world.step()
        return started.job_id

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        self._world.step()
        views: dict[str, JobView] = {}
        for each in self._world.jobs:
            state = each.state if each.over else JobState.RUNNING
            view = JobView(job_id=each.job_id, state=state, active=not each.over, source="process")
            if each.job.name in {job.name for job in jobs} and not (each.over and views.get(each.job.name)):
                views[each.job.name] = view
        return views

    def stop(self, jobs: Sequence[Job]) -> None:
        for each in self._world.jobs:
            if not each.over and each.job.name in {job.name for job in jobs}:
                each.takes = self._world.seconds - each.begun


class Commands(RuleBasedStateMachine):
    """A person who approves and changes plans, and an agent that starts whatever it can."""

    @initialize(seed=st.integers(0, 1 << 30), known=st.booleans(), hours=st.floats(0.1, 20))
    def set_up(self, seed: int, known: bool, hours: float) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.known, self.rate, self.micro = known, 1e-3, 8
        self.folder = folder_with(Path(self.place.name), planned(known=known))
        self.world = World(seed)
        self.approved: dict[str, tuple[float, str]] = {}
        self.approve(hours)

    @rule(hours=st.floats(0.05, 20))
    def approve(self, hours: float) -> None:
        given = budgets.approve(self.folder, hours)
        self.approved[given.id] = (hours, budgets.hash_work(self.folder.planned()))
        self.current = given.id
        self.world.approved[given.id] = hours

    @rule(kill_in=st.integers(1, 12) | st.none(), names=st.lists(st.sampled_from([*NAMES, MODEL]), unique=True))
    def work(self, kill_in: int | None, names: list[str]) -> None:
        """A command of a new process, which may be killed at any moment."""
        self.world.kill_in = kill_in or -1
        jobs = [self._job(name) for name in names]
        executor = budgets.BudgetedExecutor(FakeExecutor(self.world, self.current), self.folder)
        tries = dict.fromkeys(names, 2)

        def again(job: Job, view: JobView) -> Sequence[Job]:
            tries[job.name.split()[-1]] -= 1
            return (job,) if view.state is not JobState.COMPLETED and tries[job.name.split()[-1]] > 0 else ()

        before = len(self.world.jobs)
        try:
            run_jobs(
                jobs, executor, Ledger(self.folder.ledger, "local"), [(), ()], lambda *_: None, after=again,
                clock=self.world,
            )  # fmt: skip
        except Killed:
            pass
        finally:
            self.world.kill_in = -1
        if budgets.hash_work(self.folder.planned()) != self.approved[self.current][1]:
            assert len(self.world.jobs) == before, "started without an approval of this plan"

    @rule(seconds=st.floats(1, 1e5))
    def wait(self, seconds: float) -> None:
        self.world.sleep(seconds)

    @rule()
    def cancel(self) -> None:
        FakeExecutor(self.world, "").stop([self._job(name) for name in (*NAMES, MODEL)])

    @rule(rate=st.sampled_from([1e-3, 2e-3]), micro=st.sampled_from([4, 8]))
    def plan(self, rate: float, micro: int) -> None:
        self.folder.plan_json.write_text(plan_to_json(planned(rate, micro, known=self.known)))

    @invariant()
    def nothing_exceeds_its_budget(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def _job(self, name: str) -> Job:
        if name == MODEL:
            return model_evaluation(self.folder, MODEL, Path("request.json"))
        return run_training(self.folder, name)

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.cleanup()


Commands.TestCase.settings = settings(max_examples=examples(10), stateful_step_count=10, deadline=None)
TestNoSequenceExceedsTheBudget = Commands.TestCase


def test_a_job_is_limited_and_charged_until_its_record_says_less(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned())
    budgets.approve(folder, 10)
    world = World(1)
    world.chance.random = lambda: 0.5
    executor = budgets.BudgetedExecutor(FakeExecutor(world, ""), folder)
    ledger = Ledger(folder.ledger, "local")
    ledger.record("intent", "a", token="t1")
    job_id = executor.start(run_training(folder, "a"), "t1", ())
    ledger.record("submitted", "a", token="t1", job_id=job_id)
    limit = world.jobs[0].job.time_limit_seconds
    assert limit is not None
    assert limit >= LIMIT.value
    assert budgets.read_budget(folder).reserved_hours == pytest.approx(GPUS * (limit + budgets.GRACE_SECONDS) / 3600)
    world.jobs[0].takes, world.jobs[0].state = 360.0, JobState.COMPLETED
    world.sleep(400)
    budget = budgets.read_budget(folder)
    assert budget.used_hours == pytest.approx(GPUS * 0.1)
    assert budget.reserved_hours == 0
    assert budget.left_hours == pytest.approx(10 - GPUS * 0.1)


def test_a_job_that_does_not_fit_is_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, planned())
    budgets.approve(folder, 0.5)
    executor = budgets.BudgetedExecutor(FakeExecutor(World(1), ""), folder)
    with pytest.raises(SubmissionRejectedError, match=r"a may take 3\.\d+ .* 0\.5 of the approved 0\.5 are left"):
        executor.start(run_training(folder, "a"), "t1", ())


def test_an_approval_holds_for_its_plan_and_its_folder_alone(tmp_path: Path) -> None:
    """A smaller micro-batch, which recovery plans after an out of memory, is the same work."""
    (tmp_path / "one").mkdir()
    folder = folder_with(tmp_path / "one", planned())
    with pytest.raises(PolicyError, match="not approved"):
        budgets.require_approval(folder)
    budgets.approve(folder, 1)
    assert budgets.require_approval(folder).left_hours == 1
    assert budgets.read_budget(folder, planned(micro=4)).state is budgets.ApprovalState.VALID
    assert budgets.read_budget(folder, planned(rate=2e-3)).state is budgets.ApprovalState.OTHER_PLAN
    (tmp_path / "two" / ".touchline").mkdir(parents=True)
    copy = folder_with(tmp_path / "two", planned())
    (copy.internal / "approval.json").write_bytes((folder.internal / "approval.json").read_bytes())
    assert budgets.read_budget(copy).state is budgets.ApprovalState.OTHER_FOLDER
    with pytest.raises(PolicyError, match="another folder"):
        budgets.require_approval(copy)


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(tmp_path: Path, hours: float) -> None:
    with pytest.raises(InputError):
        budgets.approve(folder_with(tmp_path, planned()), hours)


class Recorder:
    def __init__(self) -> None:
        self.words: list[str] = []

    def run(self, words: Sequence[str], **options: object) -> CommandResult:
        self.words = list(words)
        return CommandResult(code=0, out="76\n", err="")


def test_a_cluster_gets_the_limit_and_never_queues_the_job_again(tmp_path: Path) -> None:
    """What stands in the script holds for jobs that no budget limits: up to 20 times the limit."""
    plan = planned(known=False)
    folder = folder_with(tmp_path, replace(plan, executor="slurm"))
    budgets.approve(folder, GPUS * (3 + 14 / 60))
    commands = Recorder()
    executor = budgets.BudgetedExecutor(SlurmExecutor(commands, folder.ledger), folder)
    assert executor.start(run_training(folder, "a"), "t1", ()) == "76"
    assert {"--time=3:11:00", "--no-requeue"} <= set(commands.words), commands.words
    assert any("TOUCHLINE_STRICT_LIMIT=1" in word for word in commands.words)
    assert budgets.read_budget(folder).left_hours < GPUS * 2 / 60
    assert executor.find is not None
