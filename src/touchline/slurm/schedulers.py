"""Schedulers by the name of their executor: their words for people, and the names of the scripts they are given."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.core.units import minutes_to_seconds

GRAIN = minutes_to_seconds(1)
"""SLURM counts limits in whole minutes, and may send `--signal` up to a minute early (sbatch(1))."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheduler:
    """Scheduler that runs jobs on a cluster."""

    title: str
    """Its name for people: `SLURM`."""
    submit: str
    """Command that submits a script."""
    queue: str
    """Command line that shows this user's jobs."""
    cancel: str
    """Command that ends a job."""
    server: str
    """Its program that answers these commands."""
    ending: str
    """Ending of the job scripts' names."""
    caution: str = ""
    """What its users must know of the support for it; empty if there is nothing."""


PBS_CAUTION = "PBS support is unverified until it has run on a real one: it was tested against a stand-in only"
SCHEDULERS = {
    "slurm": Scheduler(
        title="SLURM",
        submit="sbatch",
        queue='squeue --user="$(id -un)"',
        cancel="scancel",
        server="controller",
        ending="slurm",
    ),
    "pbs": Scheduler(
        title="PBS",
        submit="qsub",
        queue='qstat -u "$(id -un)"',
        cancel="qdel",
        server="server",
        ending="pbs",
        caution=PBS_CAUTION,
    ),
}
"""Schedulers by the value of `compute.executor`; `local` has none."""


def training_script(executor: str) -> str:
    """Return the name of a run's training script; this machine runs SLURM's, whose directives are comments to bash."""
    return f"finetune.{SCHEDULERS.get(executor, SCHEDULERS['slurm']).ending}"


def evaluation_script(executor: str) -> str:
    """Return the name of a run's evaluation script."""
    return f"eval.{SCHEDULERS.get(executor, SCHEDULERS['slurm']).ending}"
