"""Results of `touchline doctor` for this machine and the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from touchline.core.quantity import Measured

DOCTOR_SCHEMA_VERSION = 1
Area = Literal["python", "folders", "GPUs", "SLURM"]
Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorCheck:
    """Check of the doctor."""

    area: Area
    """What it is part of."""
    name: str
    """What was looked at: `models_dir`, `partition`."""
    status: Status
    """Whether it will do."""
    message: str
    """What was found."""
    code: str | None = None
    """Code of the finding, which has a page; none where all is well."""
    hint: str | None = None
    """What to do; none where all is well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFacts:
    """Folder that touchline reads or writes."""

    name: str
    """What it is for: `models_dir`, or `experiments`."""
    path: str
    """Where it is."""
    exists: bool
    """Whether it is there."""
    writable: bool
    """Whether a file could be written and synced there, or in the nearest folder above that exists."""
    problem: str | None
    """Why not, in the system's words."""
    free: Measured
    """Free space for this user, in bytes."""
    total_bytes: int | None
    """Size of its file system; none where it does not tell."""
    locks: bool | None
    """Whether a file lock keeps another process out; none where it could not be tried."""
    file_system: str
    """Its kind, `ext4`, `nfs4`; empty where it is not told."""
    locks_across_nodes: bool | None
    """Whether locks also hold between machines, as far as the mount's options tell; none where they do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonFacts:
    """An interpreter and what is installed for it."""

    path: str
    """The interpreter."""
    version: str
    """Its version."""
    packages: dict[str, str | None]
    """Version of each package that trains or evaluates; none where it is not installed."""
    touchline: str | None
    """Version of touchline there; none where it is not installed."""
    problem: str | None = None
    """Why it could not be asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionFacts:
    """A partition, as sinfo and scontrol tell it."""

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
    features: tuple[str, ...]
    """What `--constraint` may name."""
    default_mib_per_cpu: int | None = None
    """Memory of jobs that ask for none, in MiB for each CPU; none: not limited so."""
    default_mib_per_node: int | None = None
    """The same for each node."""
    grace_seconds: float | None = None
    """How long a preempted job may go on; none where nobody told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssociationFacts:
    """Limits of this user under one account."""

    account: str
    """The account."""
    partition: str
    """The partition that it is for; empty: all."""
    qos: tuple[str, ...]
    """Qualities of service that it may use."""
    max_jobs: int | None
    """Most jobs that run at once; none: not limited."""
    max_submitted: int | None
    """Most jobs in the queue at once; none: not limited."""
    max_wall_seconds: float | None
    """Longest limit; none: not limited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QosFacts:
    """A quality of service, and what it limits for each user."""

    name: str
    """Its name."""
    max_jobs: int | None
    """Most jobs that run at once; none: not limited."""
    max_submitted: int | None
    """Most jobs in the queue at once; none: not limited."""
    max_wall_seconds: float | None
    """Longest limit; none: not limited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFacts:
    """Facts from SLURM's own commands."""

    user: str
    """Who asked."""
    version: str
    """SLURM's version; empty where nobody told."""
    partitions: tuple[PartitionFacts, ...]
    """The partitions that this user sees."""
    config: dict[str, str]
    """`scontrol show config`, the keys that matter here."""
    associations: tuple[AssociationFacts, ...] | None
    """What the accounting allows this user; none where there is none to ask."""
    qos: tuple[QosFacts, ...] | None
    """The qualities of service; none where there is no accounting to ask."""
    tried: tuple[str, ...]
    """The words of `sbatch --test-only` with this user's settings."""
    taken: bool | None
    """Whether sbatch would take such a job; none where it did not answer."""
    answer: str
    """What it said."""
    problems: dict[str, str] = field(default_factory=dict)
    """Commands that did not answer, and what they said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """Report of `touchline doctor`."""

    schema_version: int = DOCTOR_SCHEMA_VERSION
    """Version of this form."""
    touchline_version: str
    """The version that asked."""
    config_file: str
    """The user's config file, whether it is there or not."""
    python: tuple[PythonFacts, ...]
    """The interpreter here, and the one of the compute nodes where it is another."""
    folders: tuple[FolderFacts, ...]
    """The folders."""
    gpus: tuple[str, ...]
    """The GPUs of this machine, `NVIDIA A100-SXM4-80GB, 80 GiB`."""
    cluster: ClusterFacts | None
    """The cluster; none where there is no sbatch."""
    checks: tuple[DoctorCheck, ...]
    """What was looked at, in order."""

    @property
    def errors(self) -> int:
        """Return the number of failed checks."""
        return sum(check.status == "error" for check in self.checks)
