"""Environments of trainers on this machine: where they are, and what is installed in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import platformdirs

from touchline.backends.external import Environment
from touchline.core.errors import HostError
from touchline.core.quantity import Missing

COMPLETE = ".complete"
"""File of a complete environment that touchline made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundEnvironment:
    """Complete environment of a trainer."""

    python: str
    """Its interpreter."""
    program: str
    """The program that starts the trainer."""
    python_version: str
    """Version of the interpreter, `3.11`."""
    versions: dict[str, str]
    """Installed version of each pinned package."""


def environment_folder(environment: Environment) -> Path:
    """Return the folder that `touchline backend install` makes."""
    return platformdirs.user_data_path("touchline") / "backends" / environment.name


def find_environment(environment: Environment) -> FoundEnvironment | Missing:
    """Return the environment of a trainer if it is complete, with the pinned versions; nothing is started."""
    named = os.environ.get(environment.python_variable)
    folder = Path(named).expanduser().parent if named else environment_folder(environment) / "bin"
    source = f"{environment.python_variable}={named}" if named else str(folder.parent)
    python, program = folder / "python", folder / environment.program
    if not os.access(python, os.X_OK):
        return Missing(missing=f"not installed ({source} has no Python)" if named else "not installed")
    if not named and not (folder.parent / COMPLETE).exists():
        return Missing(missing="incomplete: its installation was interrupted")
    packages = next(iter(sorted((folder.parent / "lib").glob("python3.*/site-packages"))), None)
    if packages is None:
        return Missing(missing=f"incomplete: {source} has no site-packages")
    wanted = environment.versions
    here = {found.name: found.version for found in distributions(path=[str(packages)]) if found.name in wanted}
    absent = [name for name in wanted if name not in here]
    if absent or not os.access(program, os.X_OK):
        return Missing(missing=f"incomplete: {', '.join(absent) or environment.program} is not installed in {source}")
    other = [f"{name} {here[name]}" for name, version in wanted.items() if _public(here[name]) != version]
    if other:
        pins = ", ".join(environment.packages)
        return Missing(missing=f"{source} has {', '.join(other)}; expected {pins}")
    return FoundEnvironment(
        python=str(python),
        program=str(program),
        python_version=packages.parent.name.removeprefix("python"),
        versions=here,
    )


def require_environment(environment: Environment) -> FoundEnvironment:
    """Return the environment of a trainer.

    Raises:
        HostError: it is not there, or not as pinned.
    """
    found = find_environment(environment)
    if isinstance(found, Missing):
        raise HostError(
            f"the environment of the backend {environment.name}: {found.missing}",
            expected=", ".join(environment.packages),
            hint=environment.install_command,
        )
    return found


def _public(version: str) -> str:
    """Return a version without the build: `2.13.0` of `2.13.0+cpu`."""
    return version.partition("+")[0]
