"""What the executor says of jobs on a real SLURM: their states, files and starts in each situation, and nothing twice.

The rows run side by side, and the first test waits for all that were selected: since SLURM's limits count in minutes,
about two minutes for the whole table, and seconds for what `make test` has of it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.cases import some
from tests.slurm import bench as rig
from tests.slurm.cluster import Cluster

from touchline.core.errors import SubmissionUnknownError
from touchline.core.status import JobState
from touchline.slurm.job_view import JobView

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
ALL_SECONDS = 400.0
"""When the rows have failed that have not settled."""
POLL_SECONDS = 0.5
COMPLETED, STOPPED, FAILED = "0 completed", "75 stopped by SIGTERM", "3 failed"
SAVED = ("resume/state",)
"""What the work saves when it is asked to end."""
DIED = rig.Told(state=JobState.UNKNOWN, attempts=(None,), leaves=("status/claim.json",))
"""A start that left no exit file, and what says who works in the folder."""
DONE = rig.Told(state=JobState.COMPLETED, attempts=(COMPLETED,))
LIMIT = replace(DIED, state=JobState.OUT_OF_MEMORY)
WENT = replace(DONE, leaves=("go",))
NEVER = ("--dependency=afterok:{failed}",)
THROUGH, AWAY = "controller restarted", "controller restarted, and the job ended meanwhile"
LOST = ("submission answer lost", "submission answer lost, and the job never arrived")
DOWN, AGAIN, PREEMPTED = "node failure", "node failure, queued again", "preempted and requeued"
PENDING, RUNNING = "cancelled pending", "cancelled running"

ROWS = (
    rig.Row("completed", "finish", DONE, smoke=True),
    rig.Row("failed", "fail", rig.Told(state=JobState.FAILED, attempts=(FAILED,)), smoke=True),
    rig.Row("timeout", "wait", rig.Told(state=JobState.TIMEOUT, attempts=(STOPPED,), leaves=SAVED), ("--time=1",)),
    rig.Row(
        "queued again at its limit",
        "wait at first",
        rig.Told(state=JobState.COMPLETED, attempts=("75 stopped by SIGUSR1, requeued", COMPLETED), leaves=SAVED),
        ("--time=2", "--signal=B:USR1@60"),
    ),
    rig.Row(PENDING, "finish", rig.Told(state=JobState.CANCELLED), ("--begin=now+1hour",), smoke=True),
    rig.Row(RUNNING, "wait", rig.Told(state=JobState.CANCELLED, attempts=(STOPPED,), leaves=SAVED), smoke=True),
    rig.Row(
        "out of memory, and the work says so",
        "say that memory is short",
        rig.Told(state=JobState.OUT_OF_MEMORY, attempts=("79 failed",)),
        smoke=True,
    ),
    rig.Row(
        "out of memory, with cgroups",
        "allocate",
        rig.Told(state=JobState.OUT_OF_MEMORY, attempts=("137 killed by SIGKILL",)),
        ("--mem=300M",),
        smoke=True,
    ),
    rig.Row("out of memory, without cgroups", "allocate", LIMIT, ("--mem=300M",), "no cgroup"),
    rig.Row("out of memory, proved by the log", "die over the limit", LIMIT, smoke=True),
    rig.Row("out of memory, or something else that kills in silence", "die in silence", DIED),
    rig.Row(DOWN, "wait", replace(DIED, state=JobState.NODE_FAIL), ("--nodelist={second}", "--no-requeue")),
    rig.Row(AGAIN, "wait at first", replace(DONE, attempts=(None, COMPLETED)), ("--nodelist={second}",)),
    rig.Row(
        PREEMPTED,
        "wait at first",
        rig.Told(state=JobState.COMPLETED, attempts=(STOPPED, COMPLETED), leaves=SAVED),
        ("--partition=preemptible", "--gpus=4"),
        smoke=True,
    ),
    rig.Row(
        "afterok on a failed parent",
        "finish",
        rig.Told(state=JobState.PENDING, active=True, reason="DependencyNeverSatisfied"),
        NEVER,
        smoke=True,
    ),
    rig.Row(
        "afterok on a failed parent, to be ended then",
        "finish",
        rig.Told(state=JobState.CANCELLED),
        (*NEVER, "--kill-on-invalid-dep=yes"),
        smoke=True,
    ),
    rig.Row("sacct off", "fail", rig.Told(state=JobState.FAILED, attempts=(FAILED,)), bench="no accounting"),
    rig.Row("sacct off, killed in silence", "die in silence", DIED, bench="no accounting"),
    rig.Row(THROUGH, "wait", WENT),
    rig.Row(AWAY, "wait", WENT),
    rig.Row(LOST[0], "finish", DONE, bench="answer lost"),
    rig.Row(LOST[1], "finish", DONE, bench="never arrived"),
)
BY_NAME = {row.name: row for row in ROWS}


@dataclass(frozen=True, kw_only=True)
class OnSlurm:
    outcomes: Mapping[str, rig.Outcome]
    while_away: Mapping[str, JobView]
    """What was said of the rows while there was no controller."""
    benches: Mapping[str, rig.Bench]


class _Course:
    """The events of the rows, each as soon as it can happen."""

    def __init__(self, cluster: Cluster, benches: Mapping[str, rig.Bench], begun: Sequence[Future[None]]) -> None:
        self._cluster = cluster
        self._plain = benches["plain"]
        self._begun = begun
        self.while_away: dict[str, JobView] = {}
        events: tuple[tuple[Callable[[Mapping[str, JobView]], bool], tuple[str, ...]], ...] = (
            (self._cancel, (PENDING, RUNNING)),
            (self._kill_node, (DOWN, AGAIN)),
            (self._preempt, (PREEMPTED,)),
            (self._restart_controller, (THROUGH, AWAY)),
        )
        self.left = [event for event, names in events if all(name in self._plain.jobs for name in names)]

    def go_on(self, views: Mapping[str, JobView]) -> None:
        self.left = [event for event in self.left if not event(views)]

    def _cancel(self, views: Mapping[str, JobView]) -> bool:
        if not self._plain.at_work(RUNNING) or PENDING not in views or RUNNING not in views:
            return False
        self._plain.executor.stop([self._plain.jobs[PENDING], self._plain.jobs[RUNNING]])
        return True

    def _kill_node(self, views: Mapping[str, JobView]) -> bool:
        del views
        if not (self._plain.at_work(DOWN) and self._plain.at_work(AGAIN)):
            return False
        self._cluster.kill_node(self._cluster.nodes[1])
        self.left.append(self._revive_node)
        return True

    def _revive_node(self, views: Mapping[str, JobView]) -> bool:
        view = views.get(DOWN)
        if view is None or view.active:
            return False
        self._cluster.revive_node(self._cluster.nodes[1])
        return True

    def _preempt(self, views: Mapping[str, JobView]) -> bool:
        del views
        if not self._plain.at_work(PREEMPTED):
            return False
        node = self._cluster.nodes[0]
        words = ("--partition=gpu", "--gpus=4", f"--nodelist={node}", "--output=/dev/null", "--wrap", "sleep 2")
        self._cluster.ask("sbatch", *words)
        return True

    def _restart_controller(self, views: Mapping[str, JobView]) -> bool:
        if not all(future.done() for future in self._begun) or not all(map(self._plain.at_work, (THROUGH, AWAY))):
            return False
        # A job that is just being sent to its node when the controller goes away is sent again, as a restart.
        if any(name in views and views[name].active for name in LOST):
            return False
        self._cluster.stop_controller()
        self._plain.go(AWAY)
        end = time.monotonic() + 30
        while self._plain.look()[AWAY].active and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        self.while_away = self._plain.look()
        self._cluster.start_controller()
        self._plain.go(THROUGH)
        return True


@pytest.fixture(scope="module")
def on_slurm(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnSlurm]:
    """The selected rows, side by side; one of them on a second cluster, without control groups."""
    here = [i for i in request.session.items if isinstance(i, pytest.Function) and i.module is request.module]
    names = {item.callspec.params["name"] for item in here if hasattr(item, "callspec")}
    others = any(item.get_closest_marker("thorough") for item in here if not hasattr(item, "callspec"))
    rows = [row for row in ROWS if row.name in names or row.name == "failed" or others]
    with ExitStack() as stack:
        alone = cluster.cgroup and any(row.bench == "no cgroup" for row in rows)
        other = stack.enter_context(Cluster(nodes=1, cgroup=False)) if alone else cluster
        yield _run(cluster, other, rows, tmp_path_factory.mktemp("slurm"))


def _run(cluster: Cluster, without_cgroup: Cluster, rows: Sequence[rig.Row], root: Path) -> OnSlurm:
    recorders = {
        "plain": rig.Recorder(cluster.commands()),
        "no accounting": rig.Recorder(cluster.commands(accounting=False)),
        "answer lost": rig.Recorder(cluster.commands(), "answer"),
        "never arrived": rig.Recorder(cluster.commands(), "request"),
        "no cgroup": rig.Recorder(without_cgroup.commands()),
    }
    benches = {name: rig.Bench(root / name.replace(" ", "-"), r, POLL_SECONDS) for name, r in recorders.items()}
    names = {"first": cluster.nodes[0], "second": cluster.nodes[-1]}
    with ThreadPoolExecutor() as pool:
        begun = [
            pool.submit(_begin_patiently, benches[row.bench], _on_a_node(row), names)
            for row in rows
            if row.name in LOST
        ]
        for row in rows:
            if row.name not in LOST:
                benches[row.bench].begin(_on_a_node(row), {**names, **benches["plain"].ids})
        course = _Course(cluster, benches, begun)
        end = time.monotonic() + ALL_SECONDS
        while time.monotonic() < end:
            for future in begun:
                if future.done():
                    future.result()
            views = {name: view for bench in benches.values() for name, view in bench.look().items()}
            course.go_on(views)
            waiting = [name for bench in benches.values() for name in bench.unsettled(views)]
            if not waiting and not course.left and all(future.done() for future in begun):
                break
            time.sleep(POLL_SECONDS)
    outcomes = {name: outcome for bench in benches.values() for name, outcome in bench.outcomes().items()}
    return OnSlurm(outcomes=outcomes, while_away=course.while_away, benches=benches)


def _on_a_node(row: rig.Row) -> rig.Row:
    """On the node that stays up, if the row does not ask for the other."""
    if row.bench == "no cgroup" or any("--nodelist" in line for line in row.directives):
        return row
    return replace(row, directives=("--nodelist={first}", *row.directives))


def _begin_patiently(bench: rig.Bench, row: rig.Row, names: Mapping[str, str]) -> None:
    """As a person or a queue does: what is unclear is tried again."""
    for _ in range(10):
        try:
            bench.begin(row, names)
        except SubmissionUnknownError:
            time.sleep(1)
        else:
            return
    raise AssertionError("it stays unclear")


@pytest.mark.parametrize(
    "name", [pytest.param(row.name, marks=[] if row.smoke else pytest.mark.thorough) for row in ROWS]
)
def test_slurm(name: str, on_slurm: OnSlurm) -> None:
    """State, exit files, files and starts are those of the table, for a later process too.

    What was said to be over stays over, and ended as it was said: absence and lag are no states.
    """
    outcome, told = on_slurm.outcomes[name], BY_NAME[name].told
    last, later, starts = outcome.history[-1], outcome.later, rig.starts_of(outcome.job)
    assert (last.state, last.active) == (told.state, told.active), last
    assert told.reason in last.reason
    assert rig.attempts_of(outcome.job) == told.attempts
    assert rig.files_of(outcome.job) == rig.expected_files(told)
    assert len(starts) == len(set(starts)) == len(told.attempts)
    assert rig.contradictions(outcome.history) == []
    assert (later.job_id, later.state, later.active) == (last.job_id, last.state, last.active), (last, later)


def test_a_look_asks_once_for_all(on_slurm: OnSlurm) -> None:
    """At most one squeue and one sacct a look, however many jobs there are."""
    for bench in some(on_slurm.benches.values()):
        assert bench.busiest_look["squeue"] <= 1
        assert bench.busiest_look["sacct"] <= 1


@pytest.mark.thorough
def test_while_the_controller_is_away_nothing_is_said_to_have_ended_that_runs(on_slurm: OnSlurm) -> None:
    """The job that ended is known by its exit file; the other is still at work."""
    assert on_slurm.while_away[THROUGH].active
    assert not on_slurm.while_away[AWAY].active


@pytest.mark.thorough
def test_an_answer_that_was_lost_is_not_asked_for_by_a_second_job(on_slurm: OnSlurm) -> None:
    """sbatch ran once in both cases: where only the answer was lost, and where the request never arrived."""
    for name in ("answer lost", "never arrived"):
        assert on_slurm.benches[name].recorder.count("sbatch") == 1
