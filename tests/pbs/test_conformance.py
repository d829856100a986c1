"""The table of the executors (tests/slurm/rows.py) on PBS: the same states, the same files, and nothing twice.

Jobs are real processes under a stand-in for PBS's server; all rows run side by side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cases import some
from tests.pbs.fake import FakePbs
from tests.slurm.bench import (
    Bench,
    Outcome,
    Recorder,
    attempts_of,
    contradictions,
    expected_files,
    files_of,
    starts_of,
)
from tests.slurm.rows import ROWS, NotHere, Told

from touchline.core.errors import SubmissionUnknownError
from touchline.run.pbs import PbsExecutor
from touchline.slurm.job_view import JobView

ALL_SECONDS = 240.0
POLL_SECONDS = 0.2
HERE = {row.name: row for row in ROWS if isinstance(row.told("pbs"), Told)}
THROUGH, AWAY = "controller restarted", "controller restarted, and the job ended meanwhile"


@dataclass(frozen=True, kw_only=True)
class OnPbs:
    """What came of all rows."""

    outcomes: Mapping[str, Outcome]
    while_away: Mapping[str, JobView]
    benches: Mapping[str, Bench]


def _bench(root: Path, name: str, recorder: Recorder) -> Bench:
    folder = root / name.replace(" ", "-")
    executors = [PbsExecutor(recorder, folder / "ledger.jsonl", poll_seconds=POLL_SECONDS) for _ in range(2)]
    return Bench(folder, executors[0], executors[1], recorder)


@pytest.fixture(scope="module")
def on_pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPbs]:
    """Every row that PBS can be in."""
    root = tmp_path_factory.mktemp("pbs")
    with FakePbs(root / "server") as server, FakePbs(root / "forgetful", history=False) as forgetful:
        benches = {
            "plain": _bench(root, "plain", Recorder(server)),
            "no accounting": _bench(root, "no accounting", Recorder(forgetful)),
            "answer lost": _bench(root, "answer lost", Recorder(server, "answer")),
            "never arrived": _bench(root, "never arrived", Recorder(server, "request")),
        }
        benches["no cgroup"] = plain = benches["plain"]
        for row in HERE.values():
            for _ in range(10):
                try:
                    benches[row.bench].begin(row)
                except SubmissionUnknownError:
                    continue
                break
        yield _run(server, plain, benches)


def _run(server: FakePbs, plain: Bench, benches: Mapping[str, Bench]) -> OnPbs:
    end = time.monotonic() + ALL_SECONDS
    running = ("cancelled running", "node failure, queued again", "preempted and requeued", THROUGH, AWAY)
    while not all(map(plain.at_work, running)) and time.monotonic() < end:
        _look(benches)
        time.sleep(POLL_SECONDS)
    server.is_down = True
    plain.go(AWAY)
    while plain.look()[AWAY].active and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    while_away = plain.look()
    server.is_down = False
    plain.go(THROUGH)
    plain.executor.stop([plain.jobs[name] for name in ("cancelled running", "cancelled pending")])
    server.lose_node(plain.ids["node failure, queued again"])
    server.rerun(plain.ids["preempted and requeued"])
    while time.monotonic() < end:
        views = _look(benches)
        if not any(bench.unsettled(views) for bench in benches.values()):
            break
        time.sleep(POLL_SECONDS)
    outcomes = {name: each for bench in benches.values() for name, each in bench.outcomes().items()}
    return OnPbs(outcomes=outcomes, while_away=while_away, benches=benches)


def _look(benches: Mapping[str, Bench]) -> dict[str, JobView]:
    return {name: view for bench in benches.values() for name, view in bench.look().items()}


@pytest.mark.parametrize("name", HERE)
def test_pbs(name: str, on_pbs: OnPbs) -> None:
    """State, files and starts are those of the table; an end is never taken back; a later process agrees."""
    outcome, told = on_pbs.outcomes[name], HERE[name].told("pbs")
    assert isinstance(told, Told)
    view = outcome.history[-1]
    assert (view.state, view.active) == (told.state, told.active), view
    assert told.reason in view.reason
    assert attempts_of(outcome.job) == told.attempts
    assert files_of(outcome.job) == expected_files(told, "pbs")
    starts = starts_of(outcome.job)
    assert len(starts) == len(set(starts)) == len(told.attempts)
    assert contradictions(outcome.history) == []
    assert outcome.later is not None
    assert (outcome.later.state, outcome.later.active, outcome.later.exit_code) == (
        view.state,
        view.active,
        view.exit_code,
    )


def test_while_the_server_is_away_nothing_is_said_to_have_ended_that_runs(on_pbs: OnPbs) -> None:
    """The job that ended is known by its exit file; the other is still at work."""
    assert on_pbs.while_away[THROUGH].active
    assert not on_pbs.while_away[AWAY].active


def test_a_look_asks_once_for_all(on_pbs: OnPbs) -> None:
    """At most one qselect and one qstat a look; a server without a history says so, and is asked for what it lacks."""
    for name, bench in some(on_pbs.benches.items()):
        most = 3 if name == "no accounting" else 1
        assert bench.busiest_look.get("qselect", 0) <= 1
        assert bench.busiest_look.get("qstat", 0) <= most


def test_an_answer_that_was_lost_is_not_asked_for_by_a_second_job(on_pbs: OnPbs) -> None:
    """qsub ran once in both cases: where only the answer was lost, and where the request never arrived."""
    for name in ("answer lost", "never arrived"):
        recorder = on_pbs.benches[name].recorder
        assert recorder is not None
        assert recorder.count("qsub") == 1


def test_what_cannot_happen_on_pbs_is_these_and_no_others() -> None:
    """A row that the PBS executor could not stand would be a hole in the suite, were it named n/a."""
    assert {row.name for row in ROWS if isinstance(row.told("pbs"), NotHere)} == {
        "node failure",
        "afterok on a failed parent",
        "afterok on a failed parent, to be ended then",
        "sacct off, killed in silence",
    }
