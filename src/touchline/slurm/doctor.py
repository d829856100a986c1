"""Results of `touchline doctor` for this machine and the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from touchline.core.quantity import Measured

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
