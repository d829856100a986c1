"""One table, both executors: the same script, the same states, the same files, and nothing twice. About two minutes.

All rows run side by side, since SLURM's limits count in minutes: the first test that needs them waits for all.
`pytest -s` prints the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.cases import some
from tests.slurm.bench import (
    Bench,
    Outcome,
    Recorder,
    attempts_of,
    contradictions,
    expected_files,
    files_of,
    starts_of,
    write_row,
    write_run,
)
from tests.slurm.cluster import Cluster
from tests.slurm.rows import BESIDE, ROWS, NotHere, Row, Told

from touchline.core.errors import SubmissionUnknownError
from touchline.run.ledger import Ledger, read_ledger
from touchline.run.local import LocalExecutor
from touchline.run.protocol import Job
from touchline.run.queue import run_jobs
from touchline.run.slurm import SlurmExecutor
from touchline.slurm.job_view import JobView

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
ALL_SECONDS = 400.0
"""When the rows have failed that have not settled."""
POLL_SECONDS = 0.5
CANNOT_HAPPEN_LOCALLY = {
    "node failure",
    "preempted and requeued",
    "afterok on a failed parent",
    "sacct off",
    "controller restarted",
    "submission answer lost",
}
BY_NAME = {row.name: row for row in (*ROWS, *BESIDE)}
LOCAL_ROWS = [row for row in ROWS if isinstance(row.here, Told)]
CANCELLED_PENDING = "cancelled pending"
THROUGH, AWAY = "controller restarted", "controller restarted, and the job ended meanwhile"
LOST = tuple(row.name for row in ROWS if row.scenario == "submission answer lost")
DOWN, AGAIN = "node failure", "node failure, queued again"


@dataclass(frozen=True, kw_only=True)
class OnSlurm:
    """What came of all rows on SLURM."""

    outcomes: Mapping[str, Outcome]
    """Of each row."""
    while_away: Mapping[str, JobView]
    """What was said of the rows while there was no controller."""
    benches: Mapping[str, Bench]
    """Where they ran."""


# ---- SLURM -----------------------------------------------------------------------------------------------------------


class _Course:
    """The events of the rows, each as soon as it can happen."""

    def __init__(self, cluster: Cluster, benches: Mapping[str, Bench], begun: Sequence[Future[None]]) -> None:
        self._cluster = cluster
        self._plain = benches["plain"]
        self._begun = begun
        self.while_away: dict[str, JobView] = {}
        self.left: list[Callable[[Mapping[str, JobView]], bool]] = [
            self._cancel,
            self._kill_node,
            self._preempt,
            self._restart_controller,
        ]

    def go_on(self, views: Mapping[str, JobView]) -> None:
        """Do what can be done now."""
        self.left = [event for event in self.left if not event(views)]

    def _cancel(self, views: Mapping[str, JobView]) -> bool:
        names = ("cancelled running", CANCELLED_PENDING)
        if not self._plain.at_work(names[0]) or any(name not in views for name in names):
            return False
        self._plain.executor.stop([self._plain.jobs[name] for name in names])
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
        if not self._plain.at_work("preempted and requeued"):
            return False
        node = self._cluster.nodes[0]
        words = ("--partition=gpu", "--gpus=4", f"--nodelist={node}", "--output=/dev/null", "--wrap", "sleep 2")
        self._cluster.ask("sbatch", *words)
        return True

    def _restart_controller(self, views: Mapping[str, JobView]) -> bool:
        if not all(future.done() for future in self._begun) or not all(map(self._plain.at_work, (THROUGH, AWAY))):
            return False
        # A job that is just being sent to its node when the controller goes away is sent again, as a restart.
        if any(name not in views or views[name].active for name in LOST):
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
def on_slurm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> OnSlurm:
    """Every row, side by side; where this machine has control groups, beside a second cluster without them."""
    root = tmp_path_factory.mktemp("slurm")
    if not cluster.cgroup:
        return _run_on_slurm(cluster, cluster, root)
    with Cluster(nodes=1, cgroup=False) as other:
        return _run_on_slurm(cluster, other, root)


def _run_on_slurm(cluster: Cluster, without_cgroup: Cluster, root: Path) -> OnSlurm:
    benches = {
        "plain": _bench(root, "plain", Recorder(cluster.commands())),
        "no accounting": _bench(root, "no accounting", Recorder(cluster.commands(accounting=False))),
        "answer lost": _bench(root, "answer lost", Recorder(cluster.commands(), "answer")),
        "never arrived": _bench(root, "never arrived", Recorder(cluster.commands(), "request")),
        "no cgroup": _bench(root, "no cgroup", Recorder(without_cgroup.commands())),
    }
    names = {"first": cluster.nodes[0], "second": cluster.nodes[1]}
    with ThreadPoolExecutor() as pool:
        begun = [
            pool.submit(_begin_patiently, benches[row.bench], _on_a_node(row), names)
            for row in ROWS
            if row.name in LOST
        ]
        for row in (*ROWS, *BESIDE):
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


def _on_a_node(row: Row) -> Row:
    """On the node that stays up, if the row does not ask for the other."""
    if row.bench == "no cgroup" or any("--nodelist" in line for line in row.directives):
        return row
    return replace(row, directives=("--nodelist={first}", *row.directives))


def _bench(root: Path, name: str, recorder: Recorder) -> Bench:
    folder = root / name.replace(" ", "-")
    ledger = folder / "ledger.jsonl"
    executors = [SlurmExecutor(recorder, ledger, poll_seconds=POLL_SECONDS) for _ in range(2)]
    return Bench(folder, executors[0], executors[1], recorder)


def _begin_patiently(bench: Bench, row: Row, names: Mapping[str, str]) -> None:
    """As a person or a queue does: what is unclear is tried again."""
    for _ in range(10):
        try:
            bench.begin(row, names)
        except SubmissionUnknownError:
            time.sleep(1)
        else:
            return
    raise AssertionError("it stays unclear")


@pytest.mark.parametrize("name", BY_NAME)
def test_slurm(name: str, on_slurm: OnSlurm) -> None:
    """State, exit files, files and starts are those of the table."""
    _assert_told(on_slurm.outcomes[name], BY_NAME[name].slurm)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_end_is_never_taken_back(name: str, on_slurm: OnSlurm) -> None:
    """What was said to be over stays over, and ended as it was said: absence and lag are no states."""
    assert contradictions(on_slurm.outcomes[name].history) == []


@pytest.mark.parametrize("name", BY_NAME)
def test_a_later_process_says_the_same(name: str, on_slurm: OnSlurm) -> None:
    """An executor that knows nothing but folders and SLURM tells the same state."""
    _assert_the_same(on_slurm.outcomes[name])


def test_while_the_controller_is_away_nothing_is_said_to_have_ended_that_runs(on_slurm: OnSlurm) -> None:
    """The job that ended is known by its exit file; the other is still at work."""
    assert on_slurm.while_away[THROUGH].active
    assert not on_slurm.while_away[AWAY].active


def test_a_look_asks_once_for_all(on_slurm: OnSlurm) -> None:
    """At most one squeue and one sacct a look, however many jobs there are."""
    for bench in some(on_slurm.benches.values()):
        assert bench.busiest_look.get("squeue", 0) <= 1
        assert bench.busiest_look.get("sacct", 0) <= 1


def test_an_answer_that_was_lost_is_not_asked_for_by_a_second_job(on_slurm: OnSlurm) -> None:
    """sbatch ran once in both cases: where only the answer was lost, and where the request never arrived."""
    for name in ("answer lost", "never arrived"):
        recorder = on_slurm.benches[name].recorder
        assert recorder is not None
        assert recorder.count("sbatch") == 1


# ---- this machine ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locally(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """Every row that can happen on this machine, side by side."""
    bench = Bench(tmp_path_factory.mktemp("local"), LocalExecutor(), LocalExecutor())
    bench.executor.tick_seconds = 0.1
    for row in LOCAL_ROWS:
        if row.name != CANCELLED_PENDING:
            bench.begin(row)
    stopped = False
    end = time.monotonic() + ALL_SECONDS
    while bench.unsettled(views := bench.look()) and time.monotonic() < end:
        if not stopped and bench.at_work("cancelled running"):
            bench.executor.stop([bench.jobs["cancelled running"]])
            stopped = True
        time.sleep(bench.executor.tick_seconds)
    assert set(views) == set(bench.jobs)
    return {**bench.outcomes(), CANCELLED_PENDING: _cancelled_before_its_turn(bench.root)}


def _cancelled_before_its_turn(root: Path) -> Outcome:
    """What waits locally waits in the queue: behind another job, until somebody cancels it in the ledger."""
    ahead = write_run(root / "ahead", "wait")
    job = write_row(root, BY_NAME[CANCELLED_PENDING])
    path = root / "queue.jsonl"

    def watch(jobs: Sequence[Job], views: Mapping[str, JobView]) -> None:
        del views
        if ahead in jobs and starts_of(ahead) and not (ahead.folder / "go").exists():
            assert job not in jobs
            Ledger(path, "local").record("cancel requested", job.name)
            (ahead.folder / "go").touch()

    executor = LocalExecutor()
    executor.tick_seconds = 0.1
    ended = run_jobs([ahead, job], executor, Ledger(path, "local"), [()], watch)
    assert "intent" not in {entry.event for entry in read_ledger(path) if entry.job == job.name}
    return Outcome(job=job, history=(ended[job.name],), later=ended[job.name])


@pytest.mark.parametrize("name", [row.name for row in LOCAL_ROWS])
def test_local(name: str, locally: Mapping[str, Outcome]) -> None:
    """State, exit files, files and starts are those of the table."""
    told = BY_NAME[name].here
    assert isinstance(told, Told)
    _assert_told(locally[name], told)
    assert contradictions(locally[name].history) == []


@pytest.mark.parametrize("name", [row.name for row in LOCAL_ROWS])
def test_a_later_process_on_this_machine_says_the_same(name: str, locally: Mapping[str, Outcome]) -> None:
    """An executor that started nothing itself reads it in the folder."""
    _assert_the_same(locally[name])


# ---- the table -------------------------------------------------------------------------------------------------------


def test_what_cannot_happen_locally_is_these_and_no_others() -> None:
    """A row that the local executor could not stand would be a hole in the suite, were it named n/a."""
    assert {row.scenario for row in ROWS if isinstance(row.here, NotHere)} == CANNOT_HAPPEN_LOCALLY
    assert not {row.scenario for row in LOCAL_ROWS} & CANNOT_HAPPEN_LOCALLY


def test_the_table(on_slurm: OnSlurm, locally: Mapping[str, Outcome]) -> None:
    """For people: `pytest -s`."""
    lines = [("scenario", "local", "slurm")]
    for row in ROWS:
        here = f"n/a ({row.here.reason})" if isinstance(row.here, NotHere) else _cell(locally[row.name])
        lines.append((row.name, here, _cell(on_slurm.outcomes[row.name])))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    print(f"\n{text}")  # noqa: T201
    assert len(lines) == len(ROWS) + 1


def _cell(outcome: Outcome) -> str:
    view = outcome.history[-1]
    return f"{view.state}{f' ({view.reason})' if view.reason else ''}"


def _assert_told(outcome: Outcome, told: Told) -> None:
    view = outcome.history[-1]
    assert (view.state, view.active) == (told.state, told.active), view
    assert told.reason in view.reason
    assert attempts_of(outcome.job) == told.attempts
    assert files_of(outcome.job) == expected_files(told)
    starts = starts_of(outcome.job)
    assert len(starts) == len(set(starts)) == len(told.attempts)


def _assert_the_same(outcome: Outcome) -> None:
    later, last = outcome.later, outcome.history[-1]
    assert later is not None
    assert (later.job_id, later.state, later.active) == (last.job_id, last.state, last.active), (last, later)
