"""The configuration files of the tests' cluster, as text.

One machine plays all nodes: each slurmd has a name, a port and made-up hardware. Ports count from a base that the
cluster holds; nodes and cluster carry the base in their names, so that two suites on a machine share no control group.
"""

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools import debian

PACKAGES = {
    "munged": "munge",
    "sbatch": "slurm-client",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
}
"""Which package holds each program."""
PLUGIN = Path("usr/lib")
"""Where the database plugin of slurmdbd lies, under a folder of the machine's kind."""
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing_packages() -> tuple[str, ...]:
    """Packages whose program is not here; daemons lie outside an ordinary user's PATH."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=path) is None]
    if not list((Path("/") / PLUGIN).glob("*/slurm-wlm/accounting_storage_mysql.so")):
        missing.append("slurm-wlm-mysql-plugin")
    return tuple(missing)


def unavailable() -> str | None:
    """Why no cluster can be started here, in one line; None when it can."""
    if sys.platform != "linux":
        return "SLURM runs on Linux only"
    if os.geteuid() != 0:
        return "SLURM's daemons need root, and this is another user"
    missing = missing_packages()
    if missing and shutil.which("apt-get") is None:
        return f"not installed, and there is no apt-get to install it: {' '.join(missing)}"
    return None


def install() -> str | None:
    """Install what is missing; say in one line why that failed, None when all is there."""
    if not missing_packages():
        return None
    with no_services():
        return debian.install(missing_packages)


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """Keep the packages from starting daemons of the whole machine, where its policy does not forbid it already."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


CONTROLLER, ACCOUNTING, DATABASE, NODES = 1, 2, 3, 4
"""Ports above the base; the last is the first node's."""
NODE_LETTERS = "abcdefgh"
REQUEUE_WAIT_SECONDS = 5
"""How long a requeued job waits before it may start; SLURM takes it from the age of credentials, 120 s by default."""
NODE_SILENCE_SECONDS = 10
"""After which a node that says nothing is down; 300 by default."""
PASSWORD = "of-the-tests-only"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    root: Path
    """Folder of everything that it writes."""
    base_port: int
    """The port below all of its own."""
    nodes: int = 2
    gpus: int = 4
    """Made-up GPUs of each node."""
    cpus: int = 32
    """Made-up processors of each node."""
    memory_mb: int = 64000
    """Made-up memory of each node."""
    cgroup: bool = True
    """Whether control groups (version 1) hold jobs to their memory; else SLURM looks once a second and kills."""

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"sim{self.base_port}{letter}" for letter in NODE_LETTERS[: self.nodes])

    @property
    def slurm_conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    @property
    def slurm_conf_without_accounting(self) -> Path:
        """What a client reads on a cluster that keeps no accounts: the same cluster, but sacct knows nothing."""
        return self.root / "etc-without-accounting" / "slurm.conf"

    @property
    def slurm_conf_impatient(self) -> Path:
        """What a client reads that gives up after a second, and not after nine, when there is no controller."""
        return self.root / "etc-impatient" / "slurm.conf"

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)


def slurm_conf(layout: Layout, *, accounting: bool = True, patient: bool = True) -> str:
    """slurm.conf, of the cluster, or of a client that hears nothing of accounts or soon gives up."""
    root, port = layout.root, layout.base_port
    kind = "cgroup" if layout.cgroup else "linuxproc"
    task = "cgroup" if layout.cgroup else "none"
    lines = [
        f"ClusterName=touchline{port}",
        f"SlurmctldHost={socket.gethostname().partition('.')[0]}(127.0.0.1)",
        f"SlurmctldPort={port + CONTROLLER}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={root}/run/munge.sock,cred_expire={REQUEUE_WAIT_SECONDS}",
        f"StateSaveLocation={root}/state",
        f"SlurmdSpoolDir={root}/spool/%n",
        f"SlurmctldPidFile={root}/run/slurmctld.pid",
        f"SlurmdPidFile={root}/run/slurmd-%n.pid",
        f"SlurmctldLogFile={root}/log/slurmctld.log",
        f"SlurmdLogFile={root}/log/slurmd-%n.log",
        "MailProg=/bin/true",
        "MpiDefault=none",
        "SwitchType=switch/none",
        f"ProctrackType=proctrack/{kind}",
        f"TaskPlugin=task/{task}",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        # More processors, memory and GPUs than this machine has.
        "SlurmdParameters=config_overrides",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "DefMemPerCPU=100",
        "GresTypes=gpu",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=2,batch_sched_delay=0",
        "KillWait=3",
        f"SlurmdTimeout={NODE_SILENCE_SECONDS}",
        "ReturnToService=2",
        "MinJobAge=300",
        "JobRequeue=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
    ]
    if not patient:
        lines.append("MessageTimeout=2")
    if not layout.cgroup:
        lines.append("JobAcctGatherParams=OverMemoryKill")
    if accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={port + ACCOUNTING}",
            # The link to slurmdbd does not read AuthInfo; without the socket here it waits for ever.
            f"AccountingStoragePass={root}/run/munge.sock",
            "AccountingStorageTRES=gres/gpu",
            # Unknown accounts and what is over a limit are refused at once.
            "AccountingStorageEnforce=associations,limits,qos",
        ]
    else:
        lines.append("AccountingStorageType=accounting_storage/none")
    host = socket.gethostname().partition(".")[0]
    lines += [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + NODES + number} CPUs={layout.cpus} "
        f"RealMemory={layout.memory_mb} Gres=gpu:{layout.gpus} State=UNKNOWN"
        for number, name in enumerate(layout.node_names)
    ]
    partition = f"Nodes={','.join(layout.node_names)} MaxTime=INFINITE DefaultTime=60 State=UP"
    lines += [
        f"PartitionName=gpu {partition} Default=YES PriorityTier=10 PreemptMode=OFF",
        # Yields to `gpu`: its jobs are told to end, and queued again.
        f"PartitionName=preemptible {partition} PriorityTier=1 PreemptMode=REQUEUE GraceTime=5",
    ]
    return "\n".join(lines) + "\n"


def gres_conf(layout: Layout) -> str:
    return f"NodeName={','.join(layout.node_names)} Name=gpu File={layout.root}/dev/nvidia[0-{layout.gpus - 1}]\n"


def cgroup_conf(layout: Layout) -> str:
    """cgroup.conf: memory is held to, cores are not, since there are fewer than the nodes pretend."""
    if layout.cgroup:
        lines = ("CgroupPlugin=cgroup/v1", "CgroupMountpoint=/sys/fs/cgroup", "ConstrainRAMSpace=yes")
        return "\n".join((*lines, "ConstrainSwapSpace=yes", ""))
    return "ConstrainCores=no\nConstrainDevices=no\nConstrainRAMSpace=no\n"


def slurmdbd_conf(layout: Layout) -> str:
    """slurmdbd.conf; it holds the password, so nobody else may read it."""
    root, port = layout.root, layout.base_port
    return "\n".join(
        (
            "AuthType=auth/munge",
            f"AuthInfo=socket={root}/run/munge.sock",
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={port + ACCOUNTING}",
            "SlurmUser=root",
            f"PidFile={root}/run/slurmdbd.pid",
            f"LogFile={root}/log/slurmdbd.log",
            "StorageType=accounting_storage/mysql",
            "StorageHost=127.0.0.1",
            f"StoragePort={port + DATABASE}",
            "StorageUser=slurm",
            f"StoragePass={PASSWORD}",
            "StorageLoc=slurm_accounts",
            "CommitDelay=1",
            "",
        )
    )


def database_words(layout: Layout) -> tuple[str, ...]:
    """The command that runs the database: small, quick, and nothing of it must survive."""
    root = layout.root
    return (
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={root}/database",
        f"--socket={root}/run/mariadb.sock",
        f"--pid-file={root}/run/mariadb.pid",
        "--bind-address=127.0.0.1",
        f"--port={layout.base_port + DATABASE}",
        "--skip-log-bin",
        "--skip-name-resolve",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=0",
        "--innodb-lock-wait-timeout=900",
    )


DATABASE_SQL = (
    "create database slurm_accounts; "
    f"create user slurm@'127.0.0.1' identified by '{PASSWORD}'; "
    "grant all on slurm_accounts.* to slurm@'127.0.0.1';"
)
