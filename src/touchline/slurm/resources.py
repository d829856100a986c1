"""Resources that a job's directives request, as far as they give plain numbers.

Options that only a site can complete (a whole node, a partition's default) leave a number unknown, never zero.
Source: sbatch(1): `--gres` and `--gpus-per-node` count per node, `--gpus` per job, `--gpus-per-task` per task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from touchline.core.observation import Event, Observation
from touchline.core.units import minutes_to_seconds
from touchline.slurm.options import Directive, read_header

GRAIN = minutes_to_seconds(1)
"""SLURM counts limits in whole minutes, and may send `--signal` up to a minute early (sbatch(1))."""
_TIME = re.compile(
    r"(?:(?P<days>\d{1,4})-(?P<day_hours>\d{1,3})(?::(?P<day_minutes>\d{1,2}))?(?::(?P<day_seconds>\d{1,2}))?"
    r"|(?:(?P<hours>\d{1,5}):(?=\d{1,2}:))?(?P<minutes>\d{1,7})(?::(?P<seconds>\d{1,2}))?)"
)
_GRES = re.compile(
    r"(?:gres[/:])?gpu(?::(?P<type>[A-Za-z_][\w.-]*|\d+[a-z][\w.-]*))?(?:[:=](?P<count>\d{1,5}))?(?:\(.*\))?"
)
_GPUS = re.compile(r"(?:(?P<type>[A-Za-z_][\w.-]*)(?::|$))?(?P<count>\d{1,5})?")
_GPU_OPTIONS = ("gpus-per-node", "gpus", "gpus-per-task", "gpus-per-socket", "gres", "tres-per-task")


def time_limit_seconds(text: str) -> float | None:
    """Return seconds of SLURM's `MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`; None for `UNLIMITED`."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    part = {name: int(value or 0) for name, value in match.groupdict().items()}
    hours = part["days"] * 24 + part["day_hours"] + part["hours"]
    minutes = part["day_minutes"] + part["minutes"]
    seconds = hours * 3600.0 + minutes * 60.0 + part["day_seconds"] + part["seconds"]
    return seconds or None  # a time of 0 asks for no limit


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
    gpu_type: str | None
    """GPU type by the site's name; None if it requests any, or several."""
    gpu_directive: Directive | None
    has_whole_nodes: bool
    """Whether it has nodes for itself, with what a site gives with them."""


def requested(asked: Mapping[str, Directive]) -> Requested:
    """Return the resources that a job requests."""
    nodes = _number(asked, "nodes", 1)
    tasks = _number(asked, "ntasks", None)
    per_node = _number(asked, "ntasks-per-node", None)
    if per_node is None and nodes is not None:
        per_node = 1 if tasks is None else (tasks if nodes == 1 else None)
    directive = next((found for name in _GPU_OPTIONS if (found := _gpus_asked(asked, name)) is not None), None)
    count, kind = (None, None) if directive is None else _gpus(directive)
    each, all_gpus = _shared_out(directive, count, nodes, per_node, tasks)
    cpus, of_gpu = _number(asked, "cpus-per-task", None), _number(asked, "cpus-per-gpu", None)
    if cpus is not None:
        cpus = None if per_node is None else cpus * per_node
    elif of_gpu is not None:
        cpus = None if each is None else of_gpu * each
    elif asked.keys() & {"ntasks", "ntasks-per-node"}:
        cpus = per_node
    exclusive = asked.get("exclusive")
    return Requested(
        nodes=nodes,
        tasks_per_node=per_node,
        cpus_per_node=cpus,
        gpus_per_node=each,
        gpus=all_gpus,
        gpu_type=kind,
        gpu_directive=directive,
        has_whole_nodes=exclusive is not None and exclusive.value in (None, "topo"),
    )


def read_sbatch(text: str) -> tuple[Event, ...]:
    """Return the requested time limit, GPUs and GPU type of a script; a job may use fewer."""
    asked = effective(tuple(read_header(text.splitlines())))
    found: list[Event] = []
    limit = asked.get("time")
    if limit is not None and (seconds := time_limit_seconds(limit.value or "")) is not None:
        found.append(Observation(name="time_limit_seconds", value=seconds, unit="s", line=limit.line, certain=True))
    resources = requested(asked)
    if (directive := resources.gpu_directive) is not None:
        if resources.gpus:
            found.append(
                Observation(name="gpus", value=float(resources.gpus), unit="1", line=directive.line, certain=False)
            )
        if resources.gpu_type is not None:
            found.append(
                Observation(name="gpu", value=resources.gpu_type, unit="1", line=directive.line, certain=False)
            )
    return tuple(found)


def effective(directives: Sequence[Directive]) -> dict[str, Directive]:
    """Return the directive in effect for each option: the last one that sbatch accepts."""
    return {each.option: each for each in directives if each.option is not None and each.fault is None}


def _number(asked: Mapping[str, Directive], option: str, absent: int | None) -> int | None:
    directive = asked.get(option)
    if directive is None:
        return absent
    return int(directive.value) if re.fullmatch(r"0*[1-9]\d{0,5}", directive.value or "") and directive.value else None


def _gpus_asked(asked: Mapping[str, Directive], option: str) -> Directive | None:
    found = asked.get(option)
    if found is None or found.value is None:
        return None
    is_gres = option in ("gres", "tres-per-task")
    return None if is_gres and not re.search(r"(?:^|[,/:])gpu(?:[:=,]|$)", found.value) else found


def _gpus(directive: Directive) -> tuple[int | None, str | None]:
    """Return number and type of GPUs in `gpu:a100:2`, `a100:2`, `2`, `gpu`; several types are summed."""
    is_gres = directive.option in ("gres", "tres-per-task")
    total, kinds = 0, set[str]()
    for part in (directive.value or "").split(","):
        match = (_GRES if is_gres else _GPUS).fullmatch(part)
        if match is not None:
            total += int(match["count"] or 1)
            kinds.update(() if match["type"] is None else (match["type"],))
        elif not is_gres:
            return None, None
    return total, kinds.pop() if len(kinds) == 1 else None


def _shared_out(
    directive: Directive | None, count: int | None, nodes: int | None, per_node: int | None, tasks: int | None
) -> tuple[int | None, int | None]:
    if directive is None or count is None:
        return None, None
    match directive.option:
        case "gres" | "gpus-per-node":
            return count, None if nodes is None else count * nodes
        case "gpus":
            return (count // nodes if nodes is not None and count % nodes == 0 else None), count
        case "gpus-per-task" if per_node is not None:
            return count * per_node, None if tasks is None else count * tasks
    return None, None
