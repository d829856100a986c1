"""Requests of `check`, `place` and `optimize`: each field is an option too. Every `--help` imports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from touchline.core.options import Option


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Resources to place jobs on."""

    gpus: Annotated[int, Option("Number of GPUs.", min=1)]
    gpus_per_node: Annotated[int | None, Option("GPUs per node; jobs never span nodes (default: all).", min=1)] = None
    cpus: Annotated[
        int | None, Option("CPUs per node (default: not counted).", flag="--cpus-per-node", min=1, old="--cpus")
    ] = None
    memory_gb: Annotated[
        float | None,
        Option(
            "Host memory per node, in GiB (default: not counted).",
            flag="--node-memory-gib",
            min=0.001,
            old="--memory-gb",
        ),
    ] = None


_ONE_GPU = Cluster(gpus=1)
_EVALUATION_MINUTES = Option("Minutes per evaluation (default: the prediction).", "N", min=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceRequest:
    """Settings of a placement."""

    cluster: Cluster
    deadline_minutes: Annotated[
        float | None, Option("Deadline, counted from the start of the first job.", "6h", flag="--deadline")
    ] = None
    """None for that of the experiment."""
    writes_script: Annotated[bool, Option("Write mega_job.slurm.", flag="--write-scripts", old="--emit")] = False
    time_minutes: Annotated[
        float | None, Option("Time limit of mega_job.slurm (default: the deadline).", "8h", flag="--time")
    ] = None
    evaluation_minutes: Annotated[float | None, _EVALUATION_MINUTES] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiseRequest:
    """Settings of an optimization."""

    cluster: Cluster = _ONE_GPU
    deadline_minutes: Annotated[
        float | None, Option("Deadline (default: compute.deadline).", "6h", flag="--deadline")
    ] = None
    evaluation_minutes: Annotated[float | None, _EVALUATION_MINUTES] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRequest:
    """Targets of a check, and the findings that count."""

    gpu: Annotated[str, Option("Target GPU, such as A100-80GB (default: the GPU here).", "NAME")] = "auto"
    cpus: Annotated[int | None, Option("CPUs per job.", flag="--cpus-per-job", min=1, old="--cpus")] = None
    """None: those of this machine, or of the job's script."""
    select: Annotated[tuple[str, ...], Option("Report only these codes or prefixes (repeatable).", "CODE")] = ()
    ignore: Annotated[tuple[str, ...], Option("Skip these codes or prefixes (repeatable).", "CODE")] = ()
    allow: Annotated[tuple[str, ...], Option("Do not count errors of these codes (repeatable).", "CODE")] = ()
