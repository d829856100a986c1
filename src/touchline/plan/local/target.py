"""Machine that an experiment is planned for: the named GPU, or the one of this machine, but never a login node's
CPU.

Jobs of `executor: slurm` run elsewhere, so this machine does not describe them: `compute.gpu`, or the type in the
user's `slurm.gpu_type`, names the GPU of the nodes. Without either, planning fails and the error lists what the
cluster offers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from touchline.backends.local.environments import missing_compiler
from touchline.backends.planning import needed_kernels
from touchline.backends.registry import backend_names, external_trainer, get_backend
from touchline.core.errors import InputError, PolicyError
from touchline.core.finding import Finding, Location, Severity
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import plural
from touchline.data.machine import machine_here
from touchline.estimate.gpus import Gpu, find_gpu, gpu_names, nearest_gpus, similar_gpus
from touchline.estimate.terms import place
from touchline.experiment.experiment import CPU, ComputeConfig
from touchline.experiment.plan import Plan
from touchline.experiment.training import TrainConfig
from touchline.experiment.value_types import SlurmSite
from touchline.slurm.local.commands import Commands, RealCommands, ask_partitions
from touchline.slurm.site_facts import gpus_offered

AUTO = "auto"
SETTING = "compute.gpu"
PLANNED_FOR_LOGIN_NODE = "US133"
ANY_TYPE = "US134"
UNKNOWN = "EX003"
DEVICES = "BK003"
_EXAMPLE = "A100-80GB"
_FOR_CPUS = f"compute.gpu={CPU}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Target machine of a plan."""

    machine: TargetMachine
    gpu: Gpu | Missing
    """GPU type; missing for a CPU and for an unknown GPU."""


def resolve_target(compute: ComputeConfig, site: SlurmSite, commands: Commands | None = None) -> Target:
    """Return the machine that an experiment's runs will use.

    Args:
        commands: how SLURM is asked what it offers; the programs on PATH when None.

    Raises InputError: with a finding: a GPU that is not known, or none named where a scheduler starts the runs.
    """
    if not compute.gpus or compute.gpu.lower() == CPU:
        return _on_cpu(compute, site)
    if compute.gpu.lower() != AUTO:
        found = gpu_target(compute.gpu, compute.gpus)
        _refuse_other_type(found, compute, site)
        return found
    if compute.executor == "local":
        return local_target(compute.gpus)
    if site.gpu_type is not None:
        return _of_type(site.gpu_type, compute, site)
    partition = compute.partition or site.partition
    raise _not_named(compute.executor, *_offered(commands or RealCommands(), partition))


def refuse_elsewhere(plan: Plan) -> None:
    """Refuse to train on this machine a plan for a GPU that it does not have.

    Raises PolicyError: `compute.gpu` names another machine, and the runs would be started on this one.
    """
    if plan.executor != "local" or plan.machine.source != SETTING:
        return
    machine = machine_here(plan.gpus_per_run)
    if place(machine.key) != place(plan.machine.key):
        raise PolicyError(
            f"the plan is for {plan.machine.name} (compute.gpu), but this machine has {machine.name}",
            expected="the planned machine, on which times, memory and micro-batches depend",
            hint="compute.gpu=auto plans for this machine; compute.executor=slurm runs on a cluster",
        )


def target_named(name: str, where: str) -> Target:
    """Return the machine for an option: a GPU by name, or `auto` for this machine.

    Raises InputError: the name is not known.
    """
    return local_target(1) if name.lower() == AUTO else gpu_target(name, 1, where)


def gpu_target(name: str, gpus: int, where: str = SETTING) -> Target:
    """Return the machine with the named GPU, or with its CPU only.

    Raises InputError: the name is not known; with the names that are.
    """
    if name.lower() == CPU:
        return Target(machine=machine_here(0), gpu=Missing(missing="planned for the CPU"))
    found = find_gpu(name)
    if isinstance(found, Missing):
        near = nearest_gpus(name)
        known = ", ".join(gpu_names())
        raise _fault(
            f"{where}: {found.missing}",
            f"did you mean {' or '.join(near)}?" if near else f"one of {known}, or {CPU}",
            code=UNKNOWN,
        )
    return Target(machine=_machine(found, gpus, where), gpu=found)


def local_target(gpus: int) -> Target:
    """Return this machine."""
    machine = machine_here(gpus)
    if machine.kind == "cpu":
        return Target(machine=machine, gpu=Missing(missing="no GPU here"))
    found = find_gpu(machine.name)
    if not isinstance(found, Missing) and isinstance(machine.memory, Quantity):
        # A part of a GPU, or one with other memory than its name says.
        found = replace(found, capacity_gib=min(found.capacity_gib, machine.memory.value))
    return Target(machine=machine, gpu=found)


# ---- devices ---------------------------------------------------------------------------------------------------------


def device_findings(
    compute: ComputeConfig, trainers: Sequence[str], machine: TargetMachine | None, where: Location | None
) -> Iterator[Finding]:
    """Yield findings on `gpus_per_run`: more devices than the trainer or the machine uses, or none of a GPU.

    Args:
        machine: the machine that is planned for; None where it is not known.
    """
    wanted = compute.gpus_per_run
    if not wanted and compute.gpu.lower() not in (AUTO, CPU):
        yield _finding(
            DEVICES,
            f"compute.gpu names {compute.gpu}, and compute.gpus_per_run is 0: the runs would use a CPU",
            f"compute.gpus_per_run=1, or compute.gpu={CPU}",
            where,
        )
    if wanted <= 1:
        return
    one = "process" if compute.plans_for_cpu else "GPU"
    many = "processes" if compute.plans_for_cpu else "GPUs"
    limited = {name: most for name in dict.fromkeys(trainers) if (most := _most_devices(name)) < wanted}
    if limited:
        name, most = next(iter(limited.items()))
        able = [backend_name for backend_name in backend_names() if _most_devices(backend_name) >= wanted]
        yield _finding(
            DEVICES,
            f"compute.gpus_per_run is {wanted}, and the trainer {name!r} uses {most} {many if most > 1 else one} "
            f"per run: the others would be reserved and stay idle",
            f"train.backend={able[0]}"
            if able
            else f"compute.gpus_per_run={most}: no trainer here uses more, and several runs at once use the other GPUs",
            where,
        )
    elif compute.plans_for_cpu:
        return
    elif machine is not None and compute.executor == "local" and machine.count < wanted:
        has = plural(machine.count, "GPU") if machine.kind == "gpu" else "no GPU"
        yield _finding(
            DEVICES,
            f"compute.gpus_per_run is {wanted}, and this machine has {has}",
            f"compute.gpus_per_run={machine.count if machine.kind == 'gpu' else 0}",
            where,
        )


def slot_findings(compute: ComputeConfig, machine: TargetMachine | None, where: Location | None) -> Iterator[Finding]:
    """Yield findings on `compute.slots`: where nothing has slots, or more than threads."""
    if compute.slots == "auto" or compute.slots == 1:
        return
    obstacle = ""
    if compute.executor != "local":
        obstacle = "the jobs of a cluster run at once by themselves"
    elif machine is not None and machine.kind == "gpu":
        obstacle = "runs on GPUs have a slot for each group of GPUs"
    elif compute.plans_for_cpu and compute.gpus_per_run > 1:
        obstacle = f"each run has {compute.gpus_per_run} processes (compute.gpus_per_run)"
    elif machine is not None and compute.slots > (machine.threads or 1):
        obstacle = f"the CPU has {plural(machine.threads or 1, 'thread')}"
    if obstacle:
        message = f"compute.slots is {compute.slots}, and {obstacle}"
        yield _finding(DEVICES, message, "compute.slots=auto", where, subject="compute.slots")


def kernel_findings(
    trainings: Iterable[TrainConfig], compute: ComputeConfig, machine: TargetMachine | None, where: Location | None
) -> Iterator[Finding]:
    """Yield findings on kernels for GPUs that the machine lacks."""
    for kernels, backend in dict.fromkeys(
        (each, train.backend) for train in trainings for each in needed_kernels(train)
    ):
        subject = kernels.setting.partition(":")[0]
        if machine is not None and machine.kind == "cpu":
            message = f"{kernels.setting} needs a GPU, and the runs are planned for a CPU"
            hint = f"{kernels.without}; or name the GPU of the runs: compute.gpu=A100-80GB"
            yield _finding(DEVICES, message, hint, where, subject=subject)
        elif compute.executor == "local" and external_trainer(backend) is None and find_spec(kernels.module) is None:
            message = f"{kernels.setting} needs {kernels.package}, not installed here"
            hint = f"pip install {kernels.package}; or {kernels.without}"
            yield _finding(DEVICES, message, hint, where, subject=subject)


def compiler_findings(
    trainings: Iterable[TrainConfig], compute: ComputeConfig, machine: TargetMachine | None, where: Location | None
) -> Iterator[Finding]:
    """Yield a finding if runs are compiled on this machine, and it lacks a compiler."""
    compiled = [train for train in trainings if train.compile and external_trainer(train.backend) is None]
    if not compiled or machine is None or compute.executor != "local":
        return
    lacking = missing_compiler(machine.kind)
    if lacking is not None:
        message = f"train.compile: true needs {lacking.what}"
        yield _finding(DEVICES, message, f"{lacking.hint}; or train.compile=false", where, subject="train.compile")


def _most_devices(trainer: str) -> int:
    return get_backend(trainer).capabilities.devices if trainer in backend_names() else 1


def request_type(
    target: Target, compute: ComputeConfig, site: SlurmSite, where: Location | None, commands: Commands | None = None
) -> tuple[Target, list[Finding]]:
    """Return the target with the name by which the jobs ask for its GPU, and findings on getting that GPU."""
    if compute.executor != "slurm" or target.machine.kind != "gpu" or site.gpu_type is not None:
        return target, []
    if compute.constraint or site.constraint:
        # Which nodes these words mean is the site's own matter.
        return target, []
    asked = ask_partitions(commands or RealCommands())
    partition = compute.partition or site.partition
    parts = [] if isinstance(asked, Missing) else asked
    jobs = [part for part in parts if (part.default if partition is None else part.name in partition.split(","))]
    kinds = list(gpus_offered(jobs))
    in_words = f"{', '.join(kinds)} in {', '.join(part.name for part in jobs)}"
    right = [kind for kind in kinds if target.machine.name in similar_gpus(kind)]
    unsure = [kind for kind in kinds if not similar_gpus(kind)]
    if kinds and not right and not unsure:
        message = f"compute.gpu plans for {target.machine.name}, and the jobs' partition has none: {in_words}"
        hint = f"compute.gpu={similar_gpus(kinds[0])[-1]}, or another partition"
        return target, [_finding(PLANNED_FOR_LOGIN_NODE, message, hint, where, subject=SETTING)]
    if right:
        # Of a type that is sold with several memories and one that names its own, the latter.
        named = min(right, key=lambda kind: len(similar_gpus(kind)))
        return replace(target, machine=replace(target.machine, requested_type=named)), []
    unlisted = "sinfo does not list the partitions here" if isinstance(asked, Missing) else "sinfo lists no type"
    why = in_words if any(kinds) else unlisted
    hint = f"slurm.gpu_type: {unsure[0] if any(unsure) else 'NAME'} in the user's config file"
    message = f"compute.gpu plans for {target.machine.name}, and the jobs ask for any GPU: {why}"
    return target, [_finding(ANY_TYPE, message, hint, where, subject=SETTING, severity=Severity.WARNING)]


# ---- a cluster -------------------------------------------------------------------------------------------------------


def _on_cpu(compute: ComputeConfig, site: SlurmSite) -> Target:
    """Return the requested CPU. Of a cluster's nodes only the requested threads are known."""
    machine = machine_here(0)
    if compute.executor != "local":
        threads = compute.cpus_per_run or site.cpus_per_run or machine.threads
        machine = replace(machine, threads=threads, source="this machine's CPU, in place of the nodes'")
    return Target(machine=machine, gpu=Missing(missing="planned for the CPU"))


def _of_type(kind: str, compute: ComputeConfig, site: SlurmSite) -> Target:
    """Return the GPU of the cluster's `gpu_type`, with the words of the constraint if a type is sold with two memories.

    Raises InputError: no single known GPU.
    """
    setting = f"{compute.executor}.gpu_type"
    words = re.findall(r"[\w.-]+", compute.constraint or site.constraint or "")
    tried = [find_gpu(name) for name in (kind, *(f"{kind}-{word}" for word in words), *words)]
    known = {gpu.name: gpu for gpu in tried if isinstance(gpu, Gpu)}
    if len(known) == 1 or isinstance(tried[0], Gpu):
        found = tried[0] if isinstance(tried[0], Gpu) else next(iter(known.values()))
        return Target(machine=_machine(found, compute.gpus, setting), gpu=found)
    near = similar_gpus(kind)
    message = (
        f"{setting} {kind!r} in the user's config file is sold with several memories: {' and '.join(near)}"
        if len(near) > 1
        else f"{setting} {kind!r} in the user's config file is not a GPU with known figures"
    )
    hint = f"compute.gpu={near[-1]}" if near else f"compute.gpu=NAME, one of {', '.join(gpu_names())}"
    raise _fault(message, f"{hint}; compute.gpu={CPU} for runs on CPUs")


def _refuse_other_type(found: Target, compute: ComputeConfig, site: SlurmSite) -> None:
    asked = () if compute.executor == "local" or site.gpu_type is None else similar_gpus(site.gpu_type)
    if asked and found.machine.name not in asked:
        raise _fault(
            f"compute.gpu plans for {found.machine.name}, and the jobs ask for {site.gpu_type!r} "
            f"({compute.executor}.gpu_type in the user's config file)",
            f"compute.gpu={asked[-1]}, or another {compute.executor}.gpu_type",
        )


def _offered(commands: Commands, partition: str | None) -> tuple[str, str]:
    asked = ask_partitions(commands)
    anything = f"compute.gpu={_EXAMPLE}, or another of {', '.join(gpu_names())}"
    if isinstance(asked, Missing):
        return f"the GPUs of the cluster are unknown here ({asked.missing})", anything
    offered = gpus_offered(asked)
    chosen = [part for part in asked if partition is None or part.name in partition.split(",")]
    if not any(offered.values()):
        names = ", ".join(part.name for part in asked)
        return f"sinfo lists no GPUs in any partition ({names})", _FOR_CPUS
    note = ""
    if partition is not None and chosen and not any(part.gpus for part in chosen):
        note = f" (none in the partition {partition} of the jobs)"
    elif partition is not None and chosen:
        inside = {part.name for part in chosen}
        offered = {kind: found for kind, found in offered.items() if inside & set(found)}
    listed = "; ".join(_offer(kind, places) for kind, places in offered.items())
    known = [similar_gpus(kind)[-1] for kind in offered if similar_gpus(kind)]
    hint = f"compute.gpu={known[0]}" if known else f"`srun --gpus=1 nvidia-smi -L` names it; {anything}"
    return f"the cluster offers {listed}{note}", hint


def _offer(kind: str, places: Mapping[str, int]) -> str:
    """Return `a100 (A100-40GB or A100-80GB): 4 per node in gpu`."""
    near = similar_gpus(kind)
    meant = f" ({' or '.join(near)})" if near and (kind,) != near else ""
    nodes = ", ".join(f"{count} per node in {name}" for name, count in places.items())
    return f"{kind or 'GPUs of no named type'}{meant}: {nodes}"


def _not_named(executor: str, offer: str, hint: str) -> InputError:
    also = "" if hint == _FOR_CPUS else f"; {_FOR_CPUS} for runs on CPUs"
    return _fault(f"compute.executor is {executor}, but the GPU of the nodes is not given; {offer}", hint + also)


def _machine(gpu: Gpu, gpus: int, source: str) -> TargetMachine:
    return TargetMachine(
        kind="gpu",
        name=gpu.name,
        memory=gpu.capacity,
        count=max(gpus, 1),
        # Where there are no tensor units for bfloat16, it is emulated.
        base_dtype="float32" if gpu.peak_tflops is None else "bfloat16",
        source=source,
    )


def _fault(message: str, hint: str, code: str = PLANNED_FOR_LOGIN_NODE) -> InputError:
    finding = Finding(code=code, severity=Severity.ERROR, subject=SETTING, message=message, hint=hint)
    return InputError(message, hint=hint, findings=[finding])


def _finding(
    code: str,
    message: str,
    hint: str,
    where: Location | None,
    *,
    subject: str = "compute.gpus_per_run",
    severity: Severity = Severity.ERROR,
) -> Finding:
    return Finding(code=code, severity=severity, subject=subject, message=message, hint=hint, where=where)
