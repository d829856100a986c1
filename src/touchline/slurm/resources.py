"""Resources of a job per node, as far as its directives give plain numbers.

Options that only a site can complete (a whole node, a partition's default) leave a number unknown, never zero.
Source: sbatch(1): `--gres` and `--gpus-per-node` count per node, `--gpus` per job, `--gpus-per-task` per task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from touchline.slurm.directives import Directive
from touchline.slurm.script import Script

_GPU_ENTRY = re.compile(
    r"(?:gres[/:])?gpu(?::(?P<type>[A-Za-z_][\w.-]*|\d+[a-z][\w.-]*))?(?:[:=](?P<count>\d+))?(?:\(.*\))?"
)
_GPUS = re.compile(r"(?:[A-Za-z_][\w.-]*:)?(?P<count>\d+)")
_GPU_OPTIONS = ("gpus-per-node", "gpus", "gpus-per-task", "gpus-per-socket", "gres", "tres-per-task")


@dataclass(frozen=True, kw_only=True, slots=True)
class Requested:
    """Requested resources per node."""

    nodes: int | None
    """Nodes; None if it asks for a range, or where other numbers decide."""
    tasks_per_node: int | None
    """Tasks that `srun` starts on each node; None if unknown."""
    cpus_per_node: int | None
    """CPU cores per node; None if the site decides."""
    gpus_per_node: int | None
    """GPUs on each node; None if not requested or unknown."""
    gpus: int | None
    """GPUs of the whole job; None if unknown."""
    gpu_directive: Directive | None
    """Directive that requests GPUs."""
    has_whole_nodes: bool
    """Whether it has nodes for itself, with what a site gives with them."""


def requested(script: Script) -> Requested:
    """Return the resources that a job's directives request."""
    nodes = _number(script, "nodes", 1)
    tasks = _number(script, "ntasks", None)
    per_node = _number(script, "ntasks-per-node", None)
    if per_node is None and nodes is not None:
        per_node = 1 if tasks is None else (tasks if nodes == 1 else None)
    directive = next((found for name in _GPU_OPTIONS if (found := _gpus_asked(script, name)) is not None), None)
    each, all_gpus = _gpus(directive, nodes, per_node, tasks)
    exclusive = script.asked("exclusive")
    return Requested(
        nodes=nodes,
        tasks_per_node=per_node,
        cpus_per_node=_cpus(script, per_node, each),
        gpus_per_node=each,
        gpus=all_gpus,
        gpu_directive=directive,
        has_whole_nodes=exclusive is not None and exclusive.value in (None, "topo"),
    )


def gpu_type(script: Script) -> str | None:
    """Return the GPU type that a job requests, by the site's name; None if it requests any."""
    directive = next((found for name in _GPU_OPTIONS if (found := _gpus_asked(script, name)) is not None), None)
    for part in (directive.value or "").split(",") if directive is not None else ():
        entry = _GPU_ENTRY.fullmatch(part)
        if entry is not None and entry["type"]:
            return entry["type"]
        named = re.fullmatch(r"([A-Za-z][\w.-]*)(?::\d+)?", part)
        if directive is not None and directive.option != "gres" and named is not None:
            return named[1]
    constraint = script.value("constraint") or ""
    words = re.findall(r"[A-Za-z]\w*(?:-\w+)*", constraint)
    return words[0] if len(words) == 1 else None


def _number(script: Script, option: str, absent: int | None) -> int | None:
    value = script.value(option)
    if value is None:
        return absent
    return int(value) if re.fullmatch(r"0*[1-9]\d{0,5}", value) else None


def _gpus_asked(script: Script, option: str) -> Directive | None:
    found = script.asked(option)
    if found is None or found.value is None:
        return None
    if option in ("gres", "tres-per-task") and not re.search(r"(?:^|[,/:])gpu(?:[:=,]|$)", found.value):
        return None
    return found


def _gpus(
    directive: Directive | None, nodes: int | None, per_node: int | None, tasks: int | None
) -> tuple[int | None, int | None]:
    """Return the GPUs per node and per job."""
    if directive is None or directive.value is None:
        return None, None
    is_gres = directive.option in ("gres", "tres-per-task")
    count = _count(directive.value, is_gres=is_gres)
    if count is None:
        return None, None
    match directive.option:
        case "gres" | "gpus-per-node":
            return count, None if nodes is None else count * nodes
        case "gpus":
            if nodes is not None and count % nodes == 0:
                return count // nodes, count
            return None, count
        case "gpus-per-task" if per_node is not None:
            return count * per_node, None if tasks is None else count * tasks
    return None, None


def _count(value: str, *, is_gres: bool) -> int | None:
    total = 0
    for part in value.split(","):
        match = (_GPU_ENTRY if is_gres else _GPUS).fullmatch(part)
        if match is not None:
            total += int(match["count"] or 1)
        elif not is_gres:
            return 1 if re.fullmatch(r"[A-Za-z][\w.-]*", part) and "," not in value else None
    return total


def _cpus(script: Script, per_node: int | None, gpus: int | None) -> int | None:
    """Return the CPU cores per node if the script gives them; a hyper-threaded core may count twice."""
    if (each := _number(script, "cpus-per-task", None)) is not None:
        return None if per_node is None else each * per_node
    if (each := _number(script, "cpus-per-gpu", None)) is not None:
        return None if gpus is None else each * gpus
    if script.asked("ntasks") is not None or script.asked("ntasks-per-node") is not None:
        return per_node
    return None
