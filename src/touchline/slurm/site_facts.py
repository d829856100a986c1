"""Facts about a cluster from sinfo and scontrol, and the results of `touchline doctor`.

    sinfo --noheader --format=SINFO_FORMAT
    scontrol show config

Seen on SLURM 22.05. A line that cannot be read is left out: these are facts to show, and sbatch has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from touchline.core.quantity import Measured
from touchline.slurm.resources import time_limit_seconds

DOCTOR_SCHEMA_VERSION = 2
Area = Literal["python", "folders", "GPUs", "SLURM"]
Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorCheck:
    """Check of the doctor."""

    area: Area
    """Area of the check."""
    name: str
    """Subject: `models_dir`, `partition`."""
    status: Status
    """Whether it will do."""
    message: str
    """Result."""
    code: str | None = None
    """Code of the finding; None if there is no problem."""
    hint: str | None = None
    """Action for the user; None if there is no problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFacts:
    """Folder that touchline reads or writes."""

    name: str
    """Purpose: `models_dir` or `experiments`."""
    path: str
    """Path."""
    exists: bool
    """Whether it is there."""
    writable: bool
    """Whether a file could be written and synced there, or in the nearest folder above that exists."""
    problem: str | None
    """Reason, in the system's words."""
    free: Measured
    """Free space for this user, in bytes."""
    total_bytes: int | None
    """Size of its file system; None if unknown."""
    locks: bool | None
    """Whether a file lock excludes another process; None if it could not be tested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonFacts:
    """An interpreter and what is installed for it."""

    path: str
    """The interpreter."""
    version: str
    """Its version."""
    packages: dict[str, str | None]
    """Version of each package for training or evaluation; None if not installed."""
    touchline: str | None
    """Version of touchline there; None if not installed."""
    problem: str | None = None
    """Reason why it could not be queried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionFacts:
    """Partition, as sinfo and scontrol print it."""

    name: str
    """Its name."""
    default: bool
    """Whether jobs go there that name none."""
    up: bool
    """Whether it takes jobs and starts them."""
    max_seconds: float | None
    """Longest limit that a job may ask for; none: no longest one."""
    default_seconds: float | None
    """Limit of jobs that ask for none; none: as long as the longest."""
    nodes: int
    """Its nodes."""
    cpus_per_node: int
    """CPUs of a node, of the largest kind."""
    memory_mib_per_node: int
    """Memory of a node in MiB, of the largest kind."""
    gpus: dict[str, int]
    """GPUs of a node by type, `{"a100": 4}`; the type is empty where the cluster names none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFacts:
    """Facts from SLURM's own commands."""

    version: str
    """SLURM's version; empty if unknown."""
    partitions: tuple[PartitionFacts, ...]
    """The partitions that this user sees."""
    config: dict[str, str]
    """`scontrol show config`, the keys that matter here."""
    accounting: bool
    """Whether the accounting answers."""
    tried: tuple[str, ...]
    """The words of `sbatch --test-only` with this user's settings."""
    taken: bool | None
    """Whether sbatch accepts such a job; None if it did not answer."""
    answer: str
    """Answer of sbatch."""
    problems: dict[str, str] = field(default_factory=dict)
    """Commands that failed, and their output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """Report of `touchline doctor`."""

    schema_version: int = DOCTOR_SCHEMA_VERSION
    """Version of this form."""
    touchline_version: str
    """Version of touchline."""
    config_file: str
    """The user's config file, whether it is there or not."""
    python: tuple[PythonFacts, ...]
    """The interpreter here, and the one of the compute nodes where it is another."""
    folders: tuple[FolderFacts, ...]
    """The folders."""
    gpus: tuple[str, ...]
    """The GPUs of this machine, `NVIDIA A100-SXM4-80GB, 80 GiB`."""
    cluster: ClusterFacts | None
    """Cluster; None without sbatch."""
    checks: tuple[DoctorCheck, ...]
    """Checks, in order."""

    @property
    def errors(self) -> int:
        """Return the number of failed checks."""
        return sum(check.status == "error" for check in self.checks)


SINFO_FORMAT = "%P|%a|%l|%L|%D|%c|%m|%G"
CONFIG_KEYS = ("ClusterName", "SLURM_VERSION", "AccountingStorageType", "MinJobAge")
"""Keys to keep of `scontrol show config`."""
_GPU = re.compile(r"(?:gres/)?gpu(?P<words>(?:[:=][\w.-]+)*)(?:\(|$)")
_COUNT = re.compile(r"(\d+)([KMGTP]?)", re.IGNORECASE)
_FLAGS = frozenset({"no_consume"})
_NOTHING = frozenset({"", "(null)", "N/A", "UNLIMITED", "None"})


def read_partitions(sinfo: str) -> tuple[PartitionFacts, ...]:
    """Read the partitions in sinfo's order; merge the node types of each."""
    found: dict[str, PartitionFacts] = {}
    for line in sinfo.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 8 or not cells[0]:
            continue
        name = cells[0].removesuffix("*")
        part = PartitionFacts(
            name=name,
            default=cells[0].endswith("*"),
            up=cells[1] == "up",
            max_seconds=_limit(cells[2]),
            default_seconds=_limit(cells[3]),
            nodes=_number(cells[4]) or 0,
            cpus_per_node=_number(cells[5]) or 0,
            memory_mib_per_node=_number(cells[6]) or 0,
            gpus=read_gpus(cells[7]),
        )
        found[name] = part if name not in found else _together(found[name], part)
    return tuple(found.values())


def read_gpus(gres: str) -> dict[str, int]:
    """Read GPUs by type from `gpu:a100:4(S:0-1),shard:8`; the type may be empty, the count is 1 if absent.

    A type may begin with a digit, as the slices of a divided GPU do: `gpu:1g.10gb:7`.
    """
    found: dict[str, int] = {}
    # Commas also stand inside the brackets that tell the sockets.
    for part in re.split(r",(?![^()]*\))", gres.strip()):
        match = _GPU.match(part.strip())
        if match is None:
            continue
        words = [word for word in re.split(r"[:=]", match["words"]) if word and word not in _FLAGS]
        count = _COUNT.fullmatch(words[-1]) if words else None
        kind = "".join(words[:1]) if count is None or len(words) > 1 else ""
        number = 1 if count is None else int(count[1]) * 1024 ** " KMGTP".index(count[2].upper() or " ")
        if number:
            found[kind] = found.get(kind, 0) + number
    return found


def gpus_offered(partitions: Iterable[PartitionFacts]) -> dict[str, dict[str, int]]:
    """Return the GPUs of a node by type and partition; the types in the order in which they are first seen."""
    found: dict[str, dict[str, int]] = {}
    for part in partitions:
        for kind, count in part.gpus.items():
            found.setdefault(kind, {})[part.name] = count
    return found


def read_config(text: str) -> dict[str, str]:
    """Read the settings in `CONFIG_KEYS` from `scontrol show config`."""
    pairs = (line.partition("=")[::2] for line in text.splitlines())
    return {name.strip(): value.strip() for name, value in pairs if name.strip() in CONFIG_KEYS}


def first_number(text: str) -> int | None:
    """Return the number at the start of a setting such as `30 sec`; None if there is none."""
    match = re.match(r"\d+", text.strip())
    return None if match is None else int(match[0])


def _number(text: str) -> int | None:
    """Read a count; sinfo writes `32+` if nodes differ."""
    return None if text in _NOTHING else first_number(text)


def _limit(text: str) -> float | None:
    return None if text in _NOTHING or text.lower() in ("infinite", "n/a") else time_limit_seconds(text)


def _together(one: PartitionFacts, other: PartitionFacts) -> PartitionFacts:
    gpus = {
        kind: max(one.gpus.get(kind, 0), other.gpus.get(kind, 0)) for kind in dict.fromkeys([*one.gpus, *other.gpus])
    }
    return replace(
        one,
        up=one.up or other.up,
        nodes=one.nodes + other.nodes,
        cpus_per_node=max(one.cpus_per_node, other.cpus_per_node),
        memory_mib_per_node=max(one.memory_mib_per_node, other.memory_mib_per_node),
        gpus=gpus,
    )
