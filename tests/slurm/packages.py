"""Whether a real SLURM can be brought up on this machine, and the Debian packages that it takes.

Covered: Debian and its kin, as root. Elsewhere `unavailable` says why not, in one line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
INSTALL_SECONDS = 300
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
    missing = missing_packages()
    if not missing:
        return None
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    # Other tests may be installing packages of theirs at this moment.
    patient = ("-o", "DPkg::Lock::Timeout=300")
    install = ("apt-get", *patient, "install", "-y", "-qq", "--no-install-recommends", *missing)
    told = "apt-get did not answer"
    with no_services():
        # The list of packages may be old: look once more, then try again.
        for command in (install, ("apt-get", "update", "-qq"), install):
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                continue
            if command == install and done.returncode == 0:
                break
            told = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), told)
    left = missing_packages()
    return f"apt-get cannot install {' '.join(left)}: {told}" if left else None


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
