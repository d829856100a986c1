"""Command `doctor`: facts of this machine and the cluster, and problems of the user config there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import touchline
from touchline.backends.registry import environments
from touchline.core.errors import FileLocksUnsupportedError, TouchlineError, install_hint
from touchline.core.files import try_lock
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import measured
from touchline.data.machine import query_nvidia_smi, visible_gpus
from touchline.data.user_config import UserConfig, config_path, load_settings
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.value_types import SlurmSite
from touchline.run.scripts.header import asked_options, slurm_memory
from touchline.slurm.local.commands import Commands, query_cluster, said
from touchline.slurm.site_facts import Area, DoctorCheck, DoctorReport, FolderFacts, PythonFacts, Status
from touchline.tools.doctor_cluster import check_cluster
from touchline.tools.environments import backend_states

LITTLE_LEFT = 0.02
"""Free fraction of a disk below which it counts as nearly full."""
NEEDED = ("torch", "transformers", "peft", "inspect_ai")


def run_doctor(settings: UserConfig, experiments: Path, commands: Commands) -> DoctorReport:
    """Run all checks; nothing is changed, and nothing slow is imported.

    Args:
        experiments: folder with experiments, or their future place.
    """
    pythons = [python_here()]
    if settings.slurm.python is not None and settings.slurm.python != pythons[0].path:
        pythons.append(python_there(settings.slurm.python, commands))
    folders = [
        inspect_folder(name, path, commands)
        for name, path in (
            ("models_dir", settings.models_dir),
            ("cache_dir", settings.cache_dir),
            ("history_dir", settings.history_dir),
            ("experiments", experiments.absolute()),
        )
    ]
    gpus = _gpus_here()
    cluster = None
    if shutil.which("sbatch") is not None:
        cluster = query_cluster(commands, trial_options(settings.slurm, gpus=1 if settings.slurm.gpu_type else 0))
    checks = [
        *_pythons(pythons),
        *(check for folder in folders for check in _folder(folder)),
        *_gpus(gpus, pythons[0]),
        *_environments(),
    ]
    if cluster is not None:
        checks += check_cluster(cluster, settings.slurm, gpus_here=len(gpus))
    else:
        checks.append(_check("SLURM", "sbatch", "ok", "not on PATH, so runs start on this machine"))
    return DoctorReport(
        touchline_version=touchline.__version__,
        config_file=str(config_path()),
        python=tuple(pythons),
        folders=tuple(folders),
        gpus=gpus,
        cluster=cluster,
        checks=tuple(checks),
    )


def trial_options(site: SlurmSite, *, gpus: int) -> list[str]:
    """Return the options of a job of this user, as command-line words."""
    words = [f"--{name}={value}" for name, value in asked_options(site, ComputeConfig(), gpus=gpus)]
    words += [] if site.cpus_per_run is None else [f"--cpus-per-task={site.cpus_per_run}"]
    words += [] if site.memory_gb is None else [f"--mem={slurm_memory(site.memory_gb)}"]
    words += ["--requeue", f"--signal=B:USR1@{site.signal_seconds}"]
    return [*words, *(word for option in site.options for word in _words(option))]


def _words(option: str) -> list[str]:
    try:
        return shlex.split(option)
    except ValueError:  # a quote without an end: sbatch says so better
        return [option]


def _pythons(pythons: Sequence[PythonFacts]) -> Iterator[DoctorCheck]:
    for number, each in enumerate(pythons):
        name = "interpreter" if number == 0 else "slurm.python"
        if each.problem is not None:
            hint = "slurm.python in the user's config file: set an interpreter on a disk shared by the nodes"
            message = f"{each.path} does not start: {each.problem}"
            yield _check("python", name, "error", message, "US111", hint)
            continue
        if each.touchline is None:
            message = f"{each.path} does not have touchline, which the jobs need"
            yield _check("python", name, "error", message, "US111", f"{each.path} -m pip install touchline")
            continue
        absent = [package for package in NEEDED if each.packages.get(package) is None]
        there = ", ".join(f"{package} {version}" for package, version in each.packages.items() if version is not None)
        about = f"Python {each.version}, touchline {each.touchline}" + (f", {there}" if there else "")
        if not absent:
            yield _check("python", name, "ok", about)
        elif each is not pythons[-1]:
            yield _check("python", name, "ok", f"{about}, jobs use slurm.python")
        else:
            message = f"{about}, can plan but not train and evaluate: {', '.join(absent)} not installed"
            hint = f"{each.path} -m {install_hint('train,eval')}"
            yield _check("python", name, "error" if number else "warning", message, "US110", hint)


def _environments() -> Iterator[DoctorCheck]:
    """Check the environments of trainers that live apart. One that is not there is needed by its runs alone."""
    own = load_settings().backends.python
    for each in backend_states():
        if not each.versions and each.installed:
            continue
        about = ", ".join(f"{name} {version}" for name, version in each.versions.items())
        note = f", {each.note}" if each.note else ""
        message = f"{each.python}, {about}{note}" if each.installed else f"{each.problem}"
        if each.installed or each.name not in own:
            yield _check("python", f"backend {each.name}", "ok", message)
        else:
            hint = f"install them there, or remove backends.{each.name} from the config file"
            yield _check("python", f"backend {each.name}", "error", message, "US110", hint)
    known = environments()
    for name in own:
        if name not in known:
            message = f"backends.{name}: not a backend with a separate environment, expected {' or '.join(known)}"
            yield _check("python", f"backend {name}", "error", message, "US101")


def _folder(folder: FolderFacts) -> Iterator[DoctorCheck]:
    name, where = folder.name, folder.path
    if not folder.writable:
        # Models are read; the others are written.
        status: Status = "warning" if name == "models_dir" and folder.exists else "error"
        message = f"{where} cannot be written: {folder.problem}"
        yield _check("folders", name, status, message, "US112", f"ls -ld {shlex.quote(where)}, or {_setting(name)}")
        return
    if folder.locks is False:
        message = f"{where}: file locks do not work there, so two processes could train one run"
        hint = f"{_setting(name)}: use a local disk, or a network file system with locks"
        yield _check("folders", name, "error" if name == "experiments" else "warning", message, "US114", hint)
        return
    if isinstance(folder.free, Quantity) and folder.free.value < LITTLE_LEFT * (folder.total_bytes or 0):
        message = f"{where}: {measured(folder.free)} left, less than {LITTLE_LEFT:.0%} of the disk"
        yield _check("folders", name, "warning", message, "US113", f"df -h {shlex.quote(where)}, or {_setting(name)}")
        return
    if name == "models_dir" and not folder.exists:
        hint = f"{_setting(name)}, or: touchline models get SmolLM2-135M-Instruct"
        yield _check("folders", name, "warning", f"{where} does not exist: no models", "US112", hint)
        return
    made = "" if folder.exists else ", created when needed"
    yield _check("folders", name, "ok", f"{where}{made}, free: {measured(folder.free)}")


def _setting(name: str) -> str:
    return "choose another folder for experiments" if name == "experiments" else f"{name} in the user's config file"


def _gpus(gpus: Sequence[str], python: PythonFacts) -> Iterator[DoctorCheck]:
    if not gpus:
        yield _check("GPUs", "GPUs", "ok", "none, so runs on this machine use the CPU")
        return
    torch = python.packages.get("torch")
    if torch is not None and torch.endswith("+cpu"):
        message = f"{len(gpus)} here ({gpus[0]}), but torch {torch} is built for the CPU only"
        yield _check("GPUs", "GPUs", "warning", message, "US116", "install the torch build for this GPU's driver")
        return
    yield _check("GPUs", "GPUs", "ok", f"{len(gpus)}: {', '.join(dict.fromkeys(gpus))}")


def _gpus_here() -> tuple[str, ...]:
    visible = visible_gpus()
    if not visible:
        return ()
    names: dict[str, str] = {}
    for line in query_nvidia_smi("index,uuid,name,memory.total"):
        index, uuid, name, memory = (part.strip() for part in line.split(",", 3))
        names |= {index: f"{name}, {memory}", uuid: f"{name}, {memory}"}
    return tuple(names.get(gpu, f"GPU {gpu}") for gpu in visible)


def _check(
    area: Area, name: str, status: Status, message: str, code: str | None = None, hint: str | None = None
) -> DoctorCheck:
    return DoctorCheck(area=area, name=name, status=status, message=message, code=code, hint=hint)


# ---- this machine ----------------------------------------------------------------------------------------------------


PACKAGES = ("torch", "transformers", "peft", "accelerate", "inspect_ai")
"""Packages for training and evaluation."""
_OTHER_SECONDS = 60.0
# Started in another interpreter, which may have nothing: only what every Python 3 has.
_ASK_PACKAGES = """\
import importlib.metadata, json, platform, sys
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
print(json.dumps([platform.python_version(), {name: version(name) for name in sys.argv[1:]}]))
"""
_TRY_LOCK = """\
import fcntl, sys
try: fcntl.flock(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: sys.exit(0)
sys.exit(3)
"""


def python_here() -> PythonFacts:
    """Return facts of this interpreter."""
    packages = {name: _version(name) for name in PACKAGES}
    return PythonFacts(
        path=sys.executable, version=platform.python_version(), packages=packages, touchline=_version("touchline")
    )


def python_there(path: str, commands: Commands) -> PythonFacts:
    """Return facts of another interpreter on this machine; that of compute nodes is usually on a shared disk."""
    answer = commands.run([path, "-c", _ASK_PACKAGES, "touchline", *PACKAGES], timeout_seconds=_OTHER_SECONDS)
    try:
        version, packages = parse_json(answer.out) if answer.ok else (None, None)
    except ValueError:
        version, packages = None, None
    if not isinstance(version, str) or not isinstance(packages, dict):
        return PythonFacts(path=path, version="", packages={}, touchline=None, problem=said(answer))
    touchline = packages.pop("touchline")
    return PythonFacts(path=path, version=version, packages=packages, touchline=touchline)


def inspect_folder(name: str, path: Path, commands: Commands) -> FolderFacts:
    """Check that a folder can be written and locked.

    A missing folder would be created in its parent, so the parent is checked.
    """
    there = next((each for each in (path, *path.parents) if each.is_dir()), Path("/"))
    free, total = _space(there)
    problem, locks = _try_writing(there, commands)
    return FolderFacts(
        name=name,
        path=str(path),
        exists=path.is_dir(),
        writable=problem is None,
        problem=problem,
        free=free,
        total_bytes=total,
        locks=locks,
    )


def _try_writing(folder: Path, commands: Commands) -> tuple[str | None, bool | None]:
    """Return (reason why the folder is not writable, whether a lock excludes another process)."""
    file = folder / f".touchline-doctor-{secrets.token_hex(4)}"
    try:
        descriptor = try_lock(file)
    except FileLocksUnsupportedError:
        file.unlink(missing_ok=True)
        return None, False
    except TouchlineError as fault:
        file.unlink(missing_ok=True)
        return fault.message, None
    except OSError as error:
        return error.strerror or str(error), None
    try:
        if descriptor is None:
            return None, False
        os.write(descriptor, b"touchline doctor was here\n")
        os.fsync(descriptor)
        refused = commands.run([sys.executable, "-c", _TRY_LOCK, str(file)], timeout_seconds=_OTHER_SECONDS)
        return None, {0: True, 3: False}.get(refused.code if refused.code is not None else -1)
    except OSError as error:
        return error.strerror or str(error), None
    finally:
        if descriptor is not None:
            os.close(descriptor)
        file.unlink(missing_ok=True)


def _space(folder: Path) -> tuple[Measured, int | None]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Missing(missing=error.strerror or "not reported by the file system"), None
    return Quantity(value=float(usage.free), unit="B", where=str(folder)), usage.total


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
