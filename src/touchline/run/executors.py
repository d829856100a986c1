"""Selection of a plan's executor."""

from __future__ import annotations

from touchline.experiment.plan import Plan
from touchline.run.folders import ExperimentFolder
from touchline.run.protocol import Executor
from touchline.slurm.local.commands import Commands


def executor_for(
    plan: Plan, folder: ExperimentFolder, poll_seconds: float, commands: Commands, lock: int | None = None
) -> Executor:
    """Return the executor; nothing is started or queried yet.

    Args:
        poll_seconds: minimum interval of queue queries.
        commands: runner of the scheduler's commands.
        lock: descriptor of the experiment lock, inherited by started programs.
    """
    # Each loads what it needs when it is wanted.
    if plan.executor == "local":
        from touchline.run.local import LocalExecutor

        return LocalExecutor()
    from touchline.run.slurm import SlurmExecutor

    return SlurmExecutor(commands, folder.ledger, poll_seconds=poll_seconds, lock=lock)
