"""One allocation for many runs: `mega_job.slurm`, which starts each stage as a step of its own, and arrays of runs.

A stage is a run's own script, `finetune.slurm` or `eval.slurm`, run in the run's folder under its own supervisor: it
has the same files, the same output and the same exit evidence as a job of its own would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from touchline.core.errors import InputError
from touchline.core.units import GIB, MIB, format_seconds
from touchline.run.scripts.folder import template
from touchline.run.scripts.header import (
    GRAIN,
    Option,
    asked_options,
    directives,
    slurm_memory,
    slurm_time,
    warning_seconds,
)
from touchline.run.scripts.shell import slurm_line
from touchline.spec.experiment import ComputeConfig
from touchline.spec.site import SlurmSite

Done = Literal["trained", "evaluated"]
TICK = 1
"""Seconds between two looks at which steps have ended: bash looks at its own children, no scheduler is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MegaStage:
    """One step of the allocation."""

    name: str
    """What people call it: the run, or `evaluate 135M_rank4`."""
    folder: str
    """The run's folder, relative to the experiment's."""
    script: str
    """The script in it: `finetune.slurm` or `eval.slurm`."""
    after: tuple[str, ...] = ()
    """Names of the stages that must be done first; those that are not in this allocation were done before."""
    gpus: int
    """GPUs that it holds; 0: the processor alone."""
    cpus: int = 0
    """CPUs that it holds; 0: its share of a node's, by its GPUs."""
    memory_gb: float = 0.0
    """Host memory that it holds, in GiB; 0: nobody knows, and then no stage's is counted."""
    upper_seconds: float
    """Upper end of its predicted time: it is started only while at least this much is left."""
    predicted_seconds: float | None = None
    """Its predicted time, by which others are kept out of the way of a wide one; the upper end when none."""
    done: Done
    """What shows that it is done: `trained`, the marker of exactly this training; `evaluated`, the exit file."""
    digest: str = ""
    """For `trained`: the run's digest, which its marker names."""
    checkpoint: str = ""
    """For `trained`: the folder of its last checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """What is asked of the scheduler at once."""

    nodes: int = 1
    """Nodes, all alike; a stage never leaves one."""
    gpus_per_node: int
    """GPUs of each; 0 where nothing needs any."""
    cpus_per_node: int | None = None
    """CPUs of each; none: what as many stages as there are GPUs take."""
    memory_gb_per_node: float | None = None
    """Host memory of each, in GiB; none: what as many stages as there are GPUs take, as far as they say."""
    seconds: float
    """How long it is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A stage as the script has it."""

    name: str
    folder: str
    script: str
    gpus: str
    cpus: str
    memory_mib: str
    upper_seconds: str
    predicted_seconds: str
    parents: str
    done: str
    digest: str
    checkpoint: str
    words: str


def mega_text(
    experiment: str,
    stages: Sequence[MegaStage],
    allocation: Allocation,
    site: SlurmSite,
    compute: ComputeConfig | None = None,
    *,
    kept_gpus: int | None = None,
    pooled: bool = False,
) -> str:
    """The text of mega_job.slurm.

    Args:
        experiment: its name.
        stages: in the order in which they are started when there is room; parents need not come first.
        allocation: what to ask for.
        site: what the cluster wants to hear.
        compute: what the experiment asks for, which goes first.
        kept_gpus: how stages are started, as `Placement.kept_gpus` says: whatever fits, in order; or a wide stage that
            waits keeps its place.
        pooled: that place is so many GPUs of the one node there is, since CPUs and memory never run short; otherwise a
            node is kept.

    Raises:
        InputError: a stage could never be started in such an allocation, two have one name, or there is none.
        SlurmValueError: a value that cannot stand on an #SBATCH line.
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
    asked: list[Option] = [
        ("job-name", f"{experiment}-mega"),
        ("output", "slurm-mega-%j.out"),
        ("open-mode", "append"),
        *_account(site, compute),
        ("nodes", str(allocation.nodes)),
        ("ntasks-per-node", "1"),
        ("cpus-per-task", str(cpus)),
        *([] if memory is None else [("mem", slurm_memory(memory))]),
        *([("gpus-per-node", _gpus_word(gpus, site))] if gpus else []),
        ("time", slurm_time(allocation.seconds)),
        ("requeue", None),
        *([] if signal is None else [("signal", f"B:USR1@{signal}")]),
    ]
    numbers = {stage.name: str(number) for number, stage in enumerate(stages)}
    return template("mega_job.slurm.j2").render(
        experiment=experiment,
        header=_header(asked, site),
        rows=[_row(stage, numbers, allocation, cpus) for stage in stages],
        gpus=gpus,
        cpus=cpus,
        memory_mib=_mib(memory) if counts and memory is not None else None,
        seconds=math.ceil(allocation.seconds),
        kept=kept,
        kept_gpus=kept_gpus,
        by_node=allocation.nodes > 1 or not pooled,
        tick=TICK,
    )


def _account(site: SlurmSite, compute: ComputeConfig | None) -> list[Option]:
    """Who pays and where it runs, as for every job of this user."""
    named = asked_options(site, compute or ComputeConfig(), gpus=0)
    return [option for option in named if option[0] in ("account", "partition", "qos", "constraint")]


def _header(asked: Sequence[Option], site: SlurmSite) -> list[str]:
    return [*directives(asked), *(f"#SBATCH {slurm_line(option)}" for option in site.options)]


def _row(stage: MegaStage, numbers: Mapping[str, str], allocation: Allocation, cpus: int) -> _Row:
    return _Row(
        name=stage.name,
        folder=stage.folder,
        script=stage.script,
        gpus=str(stage.gpus),
        cpus=str(_cpus(stage, allocation, cpus)),
        memory_mib=str(_mib(stage.memory_gb)),
        upper_seconds=str(math.ceil(stage.upper_seconds)),
        predicted_seconds=str(math.ceil(stage.predicted_seconds or stage.upper_seconds)),
        parents=" ".join(numbers[name] for name in stage.after if name in numbers),
        done=stage.done,
        digest=stage.digest or "-",
        checkpoint=stage.checkpoint or "-",
        words=f"{stage.name}: at the most {format_seconds(stage.upper_seconds)}",
    )


def _cpus(stage: MegaStage, allocation: Allocation, cpus_per_node: int) -> int:
    """CPUs of a stage; where nobody said, its share by GPUs, so that all GPUs of a node can be used at once."""
    if stage.cpus or not allocation.gpus_per_node:
        return max(stage.cpus, 1)
    return max(1, cpus_per_node * stage.gpus // allocation.gpus_per_node)


def _at_once(stages: Sequence[MegaStage], allocation: Allocation) -> int:
    """Most stages that one node runs side by side, by its GPUs; where nothing needs a GPU, all of them."""
    least = min((stage.gpus for stage in stages if stage.gpus), default=0)
    return allocation.gpus_per_node // least if least else len(stages)


def _cpus_per_node(stages: Sequence[MegaStage], allocation: Allocation) -> int:
    if allocation.cpus_per_node is not None:
        return allocation.cpus_per_node
    return max((max(stage.cpus, 1) for stage in stages), default=1) * max(_at_once(stages, allocation), 1)


def _memory_per_node(stages: Sequence[MegaStage], allocation: Allocation) -> float | None:
    """What is asked for: as given, else for as many of the largest stages that are known as run side by side."""
    if allocation.memory_gb_per_node is not None:
        return allocation.memory_gb_per_node
    largest = max((stage.memory_gb for stage in stages), default=0.0)
    return largest * max(_at_once(stages, allocation), 1) if largest else None


def _mib(gib: float) -> int:
    return math.ceil(gib * GIB / MIB)


def _gpus_word(count: int, site: SlurmSite) -> str:
    """`4`, or `a100:4`."""
    return str(count) if site.gpu_type is None else f"{site.gpu_type}:{count}"


def _refuse(stages: Sequence[MegaStage], allocation: Allocation, cpus: int, memory: float | None, kept: int) -> None:
    """Refuse what would wait for ever inside the allocation, everything at once."""
    if not stages:
        raise InputError("nothing is left to run", hint="touchline status DIR")
    names = [stage.name for stage in stages]
    faults = [f"two stages are called {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1]
    usable = allocation.seconds - kept
    for stage in stages:
        wants = (
            ("GPUs", stage.gpus, allocation.gpus_per_node),
            ("CPUs", _cpus(stage, allocation, cpus), cpus),
            ("GiB of memory", stage.memory_gb, math.inf if memory is None else memory),
        )
        faults += [
            f"{stage.name} needs {need:g} {what}, a node has {have:g}" for what, need, have in wants if need > have
        ]
        if stage.upper_seconds > usable:
            faults.append(
                f"{stage.name} may take {format_seconds(stage.upper_seconds)}, and {format_seconds(max(usable, 0))} "
                "can be used"
            )
    if faults:
        raise InputError(
            f"some stages would never be started in this allocation: {'; '.join(faults)}",
            expected="room for each stage by itself, up to the upper end of its predicted time and the time to save",
            hint="a longer time, faster runs (touchline optimize), or jobs of their own (touchline submit)",
        )


# ---- arrays ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayTask:
    """One task of an array."""

    name: str
    """The run."""
    folder: str
    """Its folder, relative to the experiment's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Array:
    """Runs of one shape, which ask the scheduler for the same."""

    file: str
    """Name of the script: `array_1.slurm`."""
    tasks: tuple[ArrayTask, ...]
    """Its tasks, in order of their numbers."""
    script: str
    """The script of each run's folder that a task runs."""
    gpus: int
    """GPUs of a task."""
    cpus: int = 0
    """CPUs of a task; 0: the cluster's default."""
    memory_gb: float = 0.0
    """Host memory of a task, in GiB; 0: the cluster's default."""
    seconds: float | None = None
    """Time limit of a task; none: the cluster's default."""
    signalled: bool = False
    """Whether a task is told to save before its limit; its own script says how soon."""
    at_once: int | None = None
    """Most tasks that run at once; none: as many as there is room for."""
    after: tuple[str, ...] = ()
    """Files of the arrays that must have ended before."""


def split_array(array: Array, most: int) -> tuple[Array, ...]:
    """The array in pieces of at most `most` tasks, SLURM's MaxArraySize; the pieces wait for what the whole waits for.

    Raises:
        ValueError: a piece could hold nothing.
    """
    if most < 1:
        raise ValueError("an array has at least one task")
    if len(array.tasks) <= most:
        return (array,)
    stem = array.file.removesuffix(".slurm")
    pieces = [array.tasks[start : start + most] for start in range(0, len(array.tasks), most)]
    return tuple(
        replace(array, file=f"{stem}_part{number}.slurm", tasks=tasks) for number, tasks in enumerate(pieces, 1)
    )


def array_text(experiment: str, array: Array, site: SlurmSite, compute: ComputeConfig | None = None) -> str:
    """The text of one array's script.

    Raises:
        SlurmValueError: a value that cannot stand on an #SBATCH line.
    """
    throttle = "" if array.at_once is None else f"%{array.at_once}"
    signal = warning_seconds(array.seconds, site.signal_seconds) if array.signalled else None
    asked: list[Option] = [
        ("job-name", f"{experiment}-{array.file.removesuffix('.slurm')}"),
        ("array", f"0-{len(array.tasks) - 1}{throttle}"),
        ("output", ".touchline/slurm-array-%A_%a.out"),
        ("open-mode", "append"),
        *_account(site, compute),
        ("nodes", "1"),
        ("ntasks", "1"),
        *([("gpus", _gpus_word(array.gpus, site))] if array.gpus else []),
        *([("cpus-per-task", str(array.cpus))] if array.cpus else []),
        *([("mem", slurm_memory(array.memory_gb))] if array.memory_gb else []),
        *([] if array.seconds is None else [("time", slurm_time(array.seconds))]),
        ("requeue", None),
        *([] if signal is None else [("signal", f"B:USR1@{signal}")]),
    ]
    return template("array.slurm.j2").render(experiment=experiment, array=array, header=_header(asked, site))


def submit_arrays_text(experiment: str, arrays: Sequence[Array]) -> str:
    """The text of submit_arrays.sh: every array once, each behind those that it waits for.

    Args:
        experiment: its name.
        arrays: each behind those that it waits for.
    """
    known: list[str] = []
    for array in arrays:
        if missing := [name for name in array.after if name not in known]:
            raise ValueError(f"{array.file} waits for {missing[0]}, which is not submitted before it")
        known.append(array.file)
    numbers = {array.file: number for number, array in enumerate(arrays)}
    rows = [(array.file, " ".join(str(numbers[name]) for name in array.after)) for array in arrays]
    return template("submit_arrays.sh.j2").render(experiment=experiment, rows=rows)
