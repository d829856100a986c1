"""The executor that a plan's jobs run under."""

from __future__ import annotations

from touchline.run.folders import ExperimentFolder
from touchline.run.protocol import Executor
from touchline.slurm.local.commands import Commands
from touchline.spec.plan import Plan


def executor_for(
    plan: Plan, folder: ExperimentFolder, poll_seconds: float, commands: Commands, lock: int | None = None
) -> Executor:
    """The executor; it starts and asks nothing yet.

    Args:
        plan: says which.
        folder: the experiment.
        poll_seconds: how often a queue may be asked.
        commands: what runs SLURM's commands.
        lock: descriptor of the experiment's lock, which what it starts must go on holding.
    """
    # Each loads what it needs when it is wanted.
    if plan.executor == "local":
        from touchline.run.local import LocalExecutor

        return LocalExecutor()
    from touchline.run.slurm import SlurmExecutor

    return SlurmExecutor(commands, folder.ledger, poll_seconds=poll_seconds, lock=lock)
