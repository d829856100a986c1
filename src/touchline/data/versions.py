"""Versions of the stack that trains and evaluates: Python, libraries, CUDA and GPU driver, without torch."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from touchline.core.files import read_head

DRIVER = Path("/proc/driver/nvidia/version")
_DRIVER_LIMIT_BYTES = 4096
_DRIVER_VERSION = re.compile(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s")


def stack_versions(libraries: Sequence[str], cuda: str | None, driver: Path = DRIVER) -> dict[str, str]:
    """Return the versions of Python, of libraries, and of CUDA and the GPU's driver where there are any."""
    versions = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    if cuda is not None:
        versions["cuda"] = cuda
    if (found := _driver(driver)) is not None:
        versions["driver"] = found
    return versions


def _driver(path: Path) -> str | None:
    try:
        text = read_head(path, _DRIVER_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    found = _DRIVER_VERSION.search(text)
    return None if found is None else found[1]
