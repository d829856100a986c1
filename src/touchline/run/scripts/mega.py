"""One allocation for many runs: `mega_job.slurm`, which starts each stage as a step.

A stage is a run's own script, `finetune.slurm` or `eval.slurm`, in the run folder under its own supervisor: its files,
output and exit records equal those of a separate job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from touchline.core.errors import InputError
from touchline.core.units import GIB, MIB, format_seconds
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.value_types import SlurmSite
from touchline.run.scripts.folder import template
from touchline.run.scripts.header import (
    Option,
    asked_options,
    directives,
    slurm_line,
    slurm_memory,
    slurm_time,
    warning_seconds,
)
from touchline.slurm.resources import GRAIN

Done = Literal["trained", "evaluated"]
TICK = 1
"""Seconds between two checks for ended steps; bash checks its children, no scheduler is queried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MegaStage:
    """Step of the allocation."""

    name: str
    """Stage name: the run, or `evaluate 135M_rank4`."""
    folder: str
    script: str
    """Script in it: `finetune.slurm` or `eval.slurm`."""
    after: tuple[str, ...] = ()
    """Names of the stages that must be done first; those outside this allocation are done already."""
    gpus: int
    """Number of GPUs; 0 for CPU only."""
    cpus: int = 0
    """Number of CPUs; 0 for its share of a node by GPUs."""
    memory_gb: float = 0.0
    """Host memory in GiB; 0 if unknown, and then no stage's memory is counted."""
    upper_seconds: float
    """Upper end of its predicted time; it starts only if at least this much is left."""
    done: Done
    """Evidence of completion: `trained`, the marker of this training; `evaluated`, the exit file."""
    digest: str = ""
    """Run digest in its marker, for `trained`."""
    checkpoint: str = ""
    """Folder of its last checkpoint, for `trained`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """Resources requested from the scheduler."""

    nodes: int = 1
    """Number of equal nodes; a stage never spans nodes."""
    gpus_per_node: int
    """GPUs per node; 0 if none is needed."""
    cpus_per_node: int | None = None
    """CPUs per node; None for as many stages as GPUs."""
    memory_gb_per_node: float | None = None
    """Host memory per node in GiB; None for as many stages as GPUs, if known."""
    seconds: float
    """Time limit."""


def mega_text(
    experiment: str,
    stages: Sequence[MegaStage],
    allocation: Allocation,
    site: SlurmSite,
    compute: ComputeConfig | None = None,
) -> str:
    """Return the text of mega_job.slurm.

    Args:
        stages: stages by priority; parents need not come first.
        compute: experiment settings, which take precedence.

    Raises:
        InputError: a stage could never start, two have one name, or there is none.
        SlurmValueError: a value is not valid on an #SBATCH line.
    """
    signal = warning_seconds(allocation.seconds, site.signal_seconds)
    cpus = _cpus_per_node(stages, allocation)
    memory = _memory_per_node(stages, allocation)
    # Beside a stage that may use all memory of the allocation, there is nothing to count.
    counts = all(stage.memory_gb for stage in stages)
    if not counts:
        stages = [replace(stage, memory_gb=0.0) for stage in stages]
    kept = math.ceil(signal + GRAIN) if signal is not None else 0
    _refuse(stages, allocation, cpus, memory, kept)
    gpus = allocation.gpus_per_node
    common = asked_options(site, compute or ComputeConfig(), gpus=0)
    account = [option for option in common if option[0] not in ("nodes", "ntasks")]
    asked: list[Option] = [
        ("job-name", f"{experiment}-mega"),
        ("output", "slurm-mega-%j.out"),
        ("open-mode", "append"),
        *account,
        ("nodes", str(allocation.nodes)),
        ("ntasks-per-node", "1"),
        ("cpus-per-task", str(cpus)),
        *([] if memory is None else [("mem", slurm_memory(memory))]),
        *([("gpus-per-node", str(gpus) if site.gpu_type is None else f"{site.gpu_type}:{gpus}")] if gpus else []),
        ("time", slurm_time(allocation.seconds)),
        ("requeue", None),
        *([] if signal is None else [("signal", f"B:USR1@{signal}")]),
    ]
    numbers = {stage.name: str(number) for number, stage in enumerate(stages)}
    return template("mega_job.slurm.j2").render(
        experiment=experiment,
        header=[*directives(asked), *(f"#SBATCH {slurm_line(option)}" for option in site.options)],
        rows=[_row(stage, numbers, allocation, cpus) for stage in stages],
        gpus=gpus,
        cpus=cpus,
        memory_mib=_mib(memory) if counts and memory is not None else None,
        seconds=math.ceil(allocation.seconds),
        kept=kept,
        tick=TICK,
    )


def _row(stage: MegaStage, numbers: Mapping[str, str], allocation: Allocation, cpus: int) -> dict[str, str]:
    """Return a stage in the script's form."""
    return dict(
        name=stage.name,
        folder=stage.folder,
        script=stage.script,
        gpus=str(stage.gpus),
        cpus=str(_cpus(stage, allocation, cpus)),
        memory_mib=str(_mib(stage.memory_gb)),
        upper_seconds=str(math.ceil(stage.upper_seconds)),
        parents=" ".join(numbers[name] for name in stage.after if name in numbers),
        done=stage.done,
        digest=stage.digest or "-",
        checkpoint=stage.checkpoint or "-",
        words=f"{stage.name}: at most {format_seconds(stage.upper_seconds)}",
    )


def _cpus(stage: MegaStage, allocation: Allocation, cpus_per_node: int) -> int:
    """Return the CPUs of a stage; by default its share by GPUs, so that all GPUs of a node are usable."""
    if stage.cpus or not allocation.gpus_per_node:
        return max(stage.cpus, 1)
    return max(1, cpus_per_node * stage.gpus // allocation.gpus_per_node)


def _at_once(stages: Sequence[MegaStage], allocation: Allocation) -> int:
    """Return the maximum number of concurrent stages per node by GPUs; all stages if none needs a GPU."""
    least = min((stage.gpus for stage in stages if stage.gpus), default=0)
    return allocation.gpus_per_node // least if least else len(stages)


def _cpus_per_node(stages: Sequence[MegaStage], allocation: Allocation) -> int:
    if allocation.cpus_per_node is not None:
        return allocation.cpus_per_node
    return max((max(stage.cpus, 1) for stage in stages), default=1) * max(_at_once(stages, allocation), 1)


def _memory_per_node(stages: Sequence[MegaStage], allocation: Allocation) -> float | None:
    """Return the requested memory: as given, else for as many of the largest known stages as run concurrently."""
    if allocation.memory_gb_per_node is not None:
        return allocation.memory_gb_per_node
    largest = max((stage.memory_gb for stage in stages), default=0.0)
    return largest * max(_at_once(stages, allocation), 1) if largest else None


def _mib(gib: float) -> int:
    return math.ceil(gib * GIB / MIB)


def _refuse(stages: Sequence[MegaStage], allocation: Allocation, cpus: int, memory: float | None, kept: int) -> None:
    """Refuse stages that would wait forever in the allocation, all at once."""
    if not stages:
        raise InputError("no runs left", hint="touchline status DIR")
    names = [stage.name for stage in stages]
    faults = [f"two stages have the name {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1]
    usable = allocation.seconds - kept
    for stage in stages:
        wants = (
            ("GPUs", stage.gpus, allocation.gpus_per_node),
            ("CPUs", _cpus(stage, allocation, cpus), cpus),
            ("GiB of memory", stage.memory_gb, math.inf if memory is None else memory),
        )
        faults += [
            f"{stage.name} needs {need:g} {what}, but a node has {have:g}" for what, need, have in wants if need > have
        ]
        if stage.upper_seconds > usable:
            faults.append(
                f"{stage.name} may take {format_seconds(stage.upper_seconds)}, but "
                f"{format_seconds(max(usable, 0))} can be used"
            )
    if faults:
        raise InputError(
            f"some stages would never start in this allocation: {', '.join(faults)}",
            expected="time for each stage alone, up to the upper end of its predicted time and the time to save",
            hint="a longer time limit, faster runs (touchline optimize), or separate jobs (touchline submit)",
        )
