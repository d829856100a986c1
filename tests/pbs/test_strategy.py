"""Strategies on PBS: submit returns after each stage, and takes the decision when it is called again.

Jobs are the scripts as written, under the real supervisor, which a stand-in for PBS's server starts; in them a stand-in
for trainer and evaluation leaves its results at once.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.api import strategies
from tests.api.strategies import make_experiment, settings, stand_in
from tests.pbs.fake import FakePbs
from tests.pbs.strategy_work import DIVERGES, loss, right_items
from tests.run import explore_stand_in

from touchline import api
from touchline.core.status import RunStatus
from touchline.data.user_config import UserConfig
from touchline.experiment.site import SlurmSite
from touchline.run.folders import ExperimentFolder
from touchline.run.ledger import read_ledger
from touchline.slurm.local.commands import CommandResult, RealCommands
from touchline.strategy.decisions import DecisionKind, StopReason, StrategyDecision

__all__ = ["settings"]
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ON_PBS = "compute={executor: pbs, gpu: cpu}"
WAIT_SECONDS = 240.0
LOOKS = (
    strategies.EXPERIMENT.replace("[2, 4, 8]", "[2, 8]")
    .replace("      - {name: four, level: {train.lora.rank: 4}, against: {train.lora.rank: 2}}\n", "")
    .replace("[11, 12, 13, 14, 15, 16]", "[11, 12, 14, 15]")
    .replace("[3, 4, 6]", "[2, 4]")
)
PYTHON = """\
#!/bin/sh
export PYTHONPATH={root}/src:{root}
case " $* " in
  *" touchline.run.attempt "*) exec {python} "$@" ;;
esac
exec {python} -m tests.pbs.strategy_work "$@"
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePbs]:
    """A server that touchline's commands reach."""
    with FakePbs(tmp_path / "server") as found:

        def run(_: RealCommands, *words: Any, **options: Any) -> CommandResult:
            return found.run(*words, **options)

        monkeypatch.setattr(RealCommands, "run", run)
        yield found


@pytest.fixture
def cluster(tmp_path: Path, settings: UserConfig) -> UserConfig:
    """The settings of a cluster whose jobs do the stand-in's work."""
    python = tmp_path / "python"
    python.write_text(PYTHON.format(root=shlex.quote(str(ROOT)), python=shlex.quote(sys.executable)))
    python.chmod(0o755)
    return replace(settings, pbs=SlurmSite(python=str(python), poll_seconds=0.05))


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def submitted(folder: Path) -> Counter[str]:
    """How often each job was submitted."""
    return Counter(entry.job for entry in read_ledger(folder / "ledger.jsonl") if entry.event == "submitted")


def submit(folder: Path, cluster: UserConfig, server: FakePbs) -> tuple[set[str], list[str]]:
    """Submit and wait for the jobs' ends. Return the jobs that were submitted by this call, and what it said."""
    said: list[str] = []
    found = api.submit(folder, cluster, on_message=said.append)
    assert {each.word for each in found} <= {"submitted"}, found
    end = time.monotonic() + WAIT_SECONDS
    while any(job.state != "F" for job in server.jobs.values()):
        assert time.monotonic() < end, {job.name: job.state for job in server.jobs.values()}
        time.sleep(0.05)
    return {each.job for each in found}, said


def test_looks_taken_by_submit_are_those_that_are_taken_here(
    tmp_path: Path, cluster: UserConfig, server: FakePbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call says what the next one does; runs of a later look are submitted when it is needed, and not before.

    A run that diverges is submitted once, and counts as 0.
    """
    here, folder = make_experiment(tmp_path / "here", LOOKS), make_experiment(tmp_path / "there", LOOKS)
    with monkeypatch.context() as local:
        stand_in(local, right_items)
        api.run(here, cluster, probe=False)
    assert [each.look.seeds for each in decided(here) if each.look is not None] == [2, 4]
    api.plan(folder, cluster, [ON_PBS])
    jobs, said = submit(folder, cluster, server)
    first = {f"1M_rank{rank}_seed{seed}" for rank in (2, 8) for seed in (11, 12)}
    assert jobs == {*first, *(f"evaluate {run}" for run in first), "evaluate 1M_base"}
    assert any("look 1 of 2 waits for 4 runs" in line and "touchline submit" in line for line in said)
    assert [each.kind for each in decided(folder)] == [DecisionKind.BEGIN]
    jobs, said = submit(folder, cluster, server)
    later = {f"1M_rank{rank}_seed{seed}" for rank in (2, 8) for seed in (14, 15)}
    assert jobs == {*later, *(f"evaluate {run}" for run in later)}
    assert any("look 1 of 2 with 2 seeds: eight undecided" in line for line in said)
    jobs, said = submit(folder, cluster, server)
    assert jobs == set()
    assert decided(folder) == decided(here)
    assert decided(folder)[-1].kind is DecisionKind.STOP
    looks = [each.look for each in decided(folder) if each.look is not None]
    assert [pair.diverged for pair in looks[-1].contrasts[0].pairs] == [(), (), (DIVERGES,), ()]
    assert set(submitted(folder).values()) == {1}


def test_a_rung_of_explore_by_submit_decides_as_here(
    tmp_path: Path, cluster: UserConfig, server: FakePbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs end while their trainings are paused; the next call cuts, and submits the others again."""
    text = explore_stand_in.EXPLORE_ONLY
    here, folder = make_experiment(tmp_path / "here", text), make_experiment(tmp_path / "there", text)
    with monkeypatch.context() as local:
        explore_stand_in.explore_stand_in(local, loss)
        api.run(here, cluster, probe=False)
    api.plan(folder, cluster, [ON_PBS])
    jobs, _ = submit(folder, cluster, server)
    runs = {f"1M_rank{rank}" for rank in (2, 4, 8, 16)}
    assert jobs == runs, "no evaluation is submitted of a training that pauses"
    assert {each.status for each in api.status(folder, cluster)} == {RunStatus.PAUSED}
    for _ in range(2):
        submit(folder, cluster, server)
    assert submit(folder, cluster, server)[0] == set()
    assert decided(folder) == decided(here)
    stop = decided(folder)[-1].stop
    assert stop is not None
    assert stop.reason is StopReason.SETTLED
    (first,), (second,) = (each.cut.cut for each in decided(folder) if each.cut is not None)
    kept = runs - {first, second}
    assert submitted(folder) == {
        first: 1,
        second: 2,
        **dict.fromkeys(kept, 3),
        **{f"evaluate {run}": 1 for run in kept},
    }
