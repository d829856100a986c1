"""The verbs of deadlines: jobs on GPUs, what is left of an experiment on GPUs, and what would make it faster.

What they need loads when one of them is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.data.user_config import UserConfig
from touchline.run.folders import ExperimentFolder

if TYPE_CHECKING:
    from touchline.plan.placement.types import Cluster, PlaceJob, Placement
    from touchline.run.allocation import PlaceRequest
    from touchline.run.optimising import Optimised, OptimiseRequest
    from touchline.run.planning import LoadedPlan


def place(
    jobs: Path,
    cluster: Cluster,
    deadline: str | None,
    *,
    seed: int = 0,
    correlation: float = 0.0,
    plot: Path | None = None,
) -> Placement:
    """Place the jobs of a file on GPUs before a deadline; `plot` is a picture of who runs when.

    Raises:
        InputError: with every fault of the file, the jobs, the cluster or the deadline.
        HostError: a picture was asked for, and what draws it is not installed.
    """
    from touchline.plan.local.job_list import parse_deadline, read_jobs
    from touchline.plan.placement.answer import place as placed

    read = read_jobs(jobs)
    found = placed(read, cluster, deadline_minutes=parse_deadline(deadline), seed=seed, correlation=correlation)
    if plot is not None:
        _draw(found, read, cluster, plot)
    return found


def place_planned(
    planned: LoadedPlan, settings: UserConfig, request: PlaceRequest, *, plot: Path | None
) -> tuple[Placement, list[Path], list[str]]:
    """The same for what is left of a planned experiment: the placement, the files written, notes."""
    from touchline.run.allocation import carry_out

    found, jobs, files, notes = carry_out(planned, settings.slurm, request)
    if plot is not None:
        _draw(found, jobs, request.cluster, plot)
    return found, files, notes


def _draw(found: Placement, jobs: Sequence[PlaceJob], cluster: Cluster, path: Path) -> None:
    from touchline.report.gantt import gantt_figure
    from touchline.report.local.drawing import write_picture

    write_picture(gantt_figure(found, jobs, cluster.gpus, cluster.gpus_per_node), path)


def optimize(source: Path, settings: UserConfig, request: OptimiseRequest, *, apply: bool = False) -> Optimised:
    """Propose what would make an experiment faster and leave alone what it learns; write it only with `apply`.

    Raises:
        InputError: the experiment or the request has faults.
    """
    from touchline.run import optimising

    found = optimising.optimise(ExperimentFolder(source), settings, request)
    if apply:
        optimising.apply(found)
    return found
