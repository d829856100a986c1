"""What a random history begins with, and the misfortunes in its calendar."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.slurm.fake import FakeSlurm, Trouble
from tests.slurm.fake_cluster import FakeCluster
from tests.slurm.fake_jobs import FakeJob, SimClock
from tests.slurm.fake_work import Machines, RunPlan
from tests.slurm.history import History

from touchline.run.jobs import Job

HORIZON_SECONDS = 1800.0
"""Misfortunes happen within this time; then it is calm."""


def begin_history(seed: int, root: Path) -> History:
    random = np.random.default_rng(seed)
    clock = SimClock()
    names = [f"run{number}" for number in range(int(random.integers(1, 5)))]
    plans = {name: _plan(random) for name in names}
    machines = Machines(clock=clock, plans=plans)
    fake = FakeSlurm(clock, machines.work, accounting=bool(random.random() < 0.8))
    machines.cluster = fake.cluster
    fake.cluster.min_job_age = float(random.choice([60.0, 300.0]))
    fake.cluster.requeue_wait = float(random.choice([5.0, 120.0]))
    fake.cluster.node_timeout = float(random.choice([10.0, 300.0]))
    fake.cluster.kill_wait = float(random.choice([1.0, 30.0]))
    fake.cluster.start_delay = float(random.choice([0.3, 20.0, 200.0]))
    fake.max_submitted = int(random.integers(1, 4)) if random.random() < 0.1 else None
    jobs: list[Job] = []
    for name in names:
        folder = root / name
        (folder / "status").mkdir(parents=True)
        minutes = int(random.choice([5, 12, 60]))
        options = [f"--time={minutes}", "--signal=B:USR1@120", "--open-mode=append"]
        options.append("--no-requeue" if random.random() < 0.3 else "--requeue")
        lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
        lines.append("exec python -m touchline.run.attempt -- python -m touchline.train finetune.yaml")
        (folder / "finetune.slurm").write_text("\n".join(lines) + "\n")
        jobs.append(
            Job(
                name=name,
                folder=folder,
                status=folder / "status",
                script="finetune.slurm",
                command=("bash", "finetune.slurm"),
                output="slurm-{job}.out",
            )
        )
    history = History(seed=seed, root=root, clock=clock, machines=machines, fake=fake, jobs=jobs, random=random)
    history.poll_seconds = float(random.choice([30.0, 60.0, 120.0]))
    history.begun = clock.true
    machines.deaf = history.away
    return history


def _plan(random: np.random.Generator) -> RunPlan:
    fails_at = int(random.integers(1, 40)) if random.random() < 0.25 else None
    return RunPlan(
        steps=int(random.integers(20, 60)),
        step_seconds=float(random.choice([4.0, 10.0, 20.0])),
        save_every=int(random.choice([5, 10, 100])),
        startup_seconds=float(random.choice([2.0, 30.0])),
        save_seconds=float(random.choice([0.5, 2.0, 10.0])),
        fails_at=fails_at,
        fails_with=int(random.choice([1, 5, 79])),
        fails_times=int(random.choice([1, 99])),
        exit_code=int(random.random() < 0.05),
    )


def misfortunes(history: History) -> None:
    random = history.random
    for _ in range(int(random.poisson(3.5))):
        kind = str(random.choice(list(_KINDS), p=_WEIGHTS / _WEIGHTS.sum()))
        when = history.clock.true + _moment(random)
        _KINDS[kind][1](history, kind, when)
    history.one_offs = float(random.choice([0.0, 0.0, 0.02, 0.1]))


Misfortune = Callable[[History, str, float], None]
"""(history, its name, when)"""


def _to_a_job(act: Callable[[FakeCluster, FakeJob, float], object]) -> Misfortune:
    def plan(history: History, kind: str, when: float) -> None:
        def happen(time: float) -> None:
            running = [job for job in history.fake.cluster.jobs if job.state == "RUNNING"]
            if running:
                job = running[int(history.random.integers(len(running)))]
                history.tell(f"{kind}: job {job.raw}, {job.folder.name}")
                act(history.fake.cluster, job, time)

        history.fake.cluster.at(when, happen)

    return plan


def _window(trouble: Trouble, longest: float) -> Misfortune:
    """What is wrong with SLURM's commands for a while."""

    def plan(history: History, kind: str, when: float) -> None:
        end = when + float(history.random.random()) * longest
        history.windows.append((when, end, trouble))
        history.tell(f"{kind} from {history.since(when):.0f} to {history.since(end):.0f}")

    return plan


def _node_dies(history: History, kind: str, when: float) -> None:
    node = str(history.random.choice(list(history.fake.cluster.nodes)))
    back = float(history.random.choice([30.0, 900.0]))

    def happen(time: float) -> None:
        history.tell(f"{kind}: {node}")
        history.fake.cluster.fail_node(node, time, back=back, cut_off=kind == "cut off")

    history.fake.cluster.at(when, happen)


def _disk(history: History, kind: str, when: float) -> None:
    del kind
    history.fake.cluster.at(when, lambda time: fill_disk(history, full=True))
    end = when + float(history.random.random()) * 400.0
    history.fake.cluster.at(end, lambda time: fill_disk(history, full=False))


def _clock_jumps(history: History, kind: str, when: float) -> None:
    seconds = float(history.random.choice([-7200.0, -300.0, -30.0, 60.0, 600.0, 86400.0]))

    def happen(time: float) -> None:
        del time
        history.tell(f"{kind} by {seconds:.0f} s")
        history.clock.ahead += seconds

    history.fake.cluster.at(when, happen)


def _by_hand(history: History, kind: str, when: float) -> None:
    del kind
    history.fake.cluster.at(when, lambda time: history.by_hand())


def _somebody_looks(history: History, kind: str, when: float) -> None:
    del kind
    history.fake.cluster.at(when, lambda time: setattr(history, "looks", True))


_KINDS: dict[str, tuple[int, Misfortune]] = {
    "kill -9": (2, _to_a_job(FakeCluster.kill)),
    "scontrol requeue": (1, _to_a_job(FakeCluster.queue_again)),
    "preempted": (1, _to_a_job(FakeCluster.preempt)),
    "scancel": (1, _to_a_job(FakeCluster.cancel)),
    "node dies": (2, _node_dies),
    "cut off": (1, _node_dies),
    "disk": (1, _disk),
    "the clock jumps": (1, _clock_jumps),
    "controller down": (1, _window("down", 600.0)),
    "controller frozen": (1, _window("frozen", 200.0)),
    "no database": (1, _window("no database", 1200.0)),
    "by hand": (1, _by_hand),
    "somebody looks": (1, _somebody_looks),
}
"""Name: (how often, what is put into the calendar)."""
_WEIGHTS = np.array([weight for weight, _ in _KINDS.values()], dtype=float)


def _moment(random: np.random.Generator) -> float:
    """Rather early: most runs have ended before the horizon."""
    return float(min(random.exponential(HORIZON_SECONDS / 4), HORIZON_SECONDS))


def fill_disk(history: History, *, full: bool) -> None:
    """The disk has no room any more, or has again."""
    if history.machines.disk_full != full:
        history.machines.disk_full = full
        history.tell("the disk is full" if full else "the disk has room")
