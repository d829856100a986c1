"""Debian packages of programs that tests start: installed where they are missing, else a reason in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

INSTALL_SECONDS = 300


def install(packages: Callable[[], Sequence[str]]) -> str | None:
    """Install packages. Return the reason in one line if that is impossible.

    Args:
        packages: gives those that are still missing; empty when all is there.
    """
    missing = list(packages())
    if not missing:
        return None
    names = " ".join(missing)
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        return f"not installed, and there is no apt-get to install it: {names}"
    if os.geteuid() != 0:
        return f"not installed, and only root can install it: {names}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    # Other tests may be installing packages of theirs at this moment.
    patient = ("-o", "DPkg::Lock::Timeout=300")
    command = ("apt-get", *patient, "install", "-y", "-qq", "--no-install-recommends", *missing)
    told = "apt-get did not answer"
    # The list of packages may be old: look once more, then try again.
    for each in (command, ("apt-get", "update", "-qq"), command):
        try:
            done = subprocess.run(
                each, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            continue
        if not packages():
            return None
        told = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), told)
    return f"apt-get cannot install {' '.join(packages())}: {told}"
