"""Whether a real SLURM can be brought up on this machine, and the Debian packages that it takes.

Covered: Debian and its kin, as root. Elsewhere `unavailable` says why not, in one line.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
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
