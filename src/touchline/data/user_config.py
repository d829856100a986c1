"""User configuration: folders of models, caches and history, and cluster settings.

The folders come from the environment, then from the user's config file, then from the platform's usual places; the
cluster's settings from the key `slurm` of that file alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from touchline.core.errors import InputError, error_count
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.near import did_you_mean, near_names
from touchline.experiment.value_types import SlurmSite

if TYPE_CHECKING:
    from touchline.experiment.document import YamlDocument

_FOLDERS = ("models_dir", "cache_dir", "history_dir")
_SLURM = "slurm"
_BACKENDS = "backends"
_KEYS = (*_FOLDERS, _SLURM, _BACKENDS)
_LIMIT_BYTES = 1 << 20
CODE = "US101"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendsConfig:
    """Environments of trainers that live apart from touchline."""

    folder: Path | None = None
    """Folder in which `touchline backend install` makes them; None for `backends/` in the user's data folder."""
    python: Mapping[str, Path] = field(default_factory=dict)
    """Interpreter of an environment of the user's own, by backend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UserConfig:
    """User configuration on this machine."""

    models_dir: Path
    """Folder with one subfolder per model."""
    cache_dir: Path
    """Folder of caches."""
    history_dir: Path
    """Folder of run records, by default `history/` in the user's data folder; set by TOUCHLINE_HISTORY_DIR, and
    possibly shared by a group."""
    slurm: SlurmSite = field(default_factory=SlurmSite)
    """Settings for this user's jobs on SLURM."""
    backends: BackendsConfig = field(default_factory=BackendsConfig)
    """Environments of trainers."""


def config_path() -> Path:
    """Return the path of the user's config file, which may not exist."""
    return platformdirs.user_config_path("touchline") / "config.yaml"


def load_settings() -> UserConfig:
    """Load the user configuration.

    Raises:
        InputError: the config file is broken, or has keys or values that it cannot have; with all of them.
    """
    data = platformdirs.user_data_path("touchline")
    usual = {
        "models_dir": data / "models",
        "cache_dir": platformdirs.user_cache_path("touchline"),
        "history_dir": data / "history",
    }
    written, slurm, backends = _from_file(config_path())
    found = usual | written
    for key in _FOLDERS:
        if value := os.environ.get(f"TOUCHLINE_{key.upper()}"):
            found[key] = _folder(value, Path.cwd(), f"TOUCHLINE_{key.upper()}")
    return UserConfig(
        models_dir=found["models_dir"],
        cache_dir=found["cache_dir"],
        history_dir=found["history_dir"],
        backends=backends,
        slurm=slurm,
    )


def _from_file(path: Path) -> tuple[dict[str, Path], SlurmSite, BackendsConfig]:
    nothing: tuple[dict[str, Path], SlurmSite, BackendsConfig] = {}, SlurmSite(), BackendsConfig()
    if not path.exists():
        return nothing
    # Only who has a config file waits for the YAML reader to load.
    from touchline.experiment.document import parse

    text = read_text_bounded(path, _LIMIT_BYTES)
    if all(line.strip() == "" or line.lstrip().startswith("#") for line in text.splitlines()):
        return nothing
    document = parse(text, str(path))
    faults: list[Finding] = []
    found: dict[str, Path] = {}
    slurm = SlurmSite()
    backends = BackendsConfig()
    for key, value in document.data.items():
        where = document.where([key])
        if key not in _KEYS:
            near = near_names(str(key), _KEYS, most=1)
            hint = did_you_mean(near)
            faults.append(_fault(key, f"unknown key {key!r}, expected one of {', '.join(_KEYS)}", where, hint))
        elif key == _SLURM:
            slurm, wrong = _cluster(value, document)
            faults += wrong
        elif key == _BACKENDS:
            backends, wrong = _backends(value, document, path.parent)
            faults += wrong
        elif not isinstance(value, str) or not value:
            faults.append(_fault(key, f"{key} is {value!r}, expected the path of a folder", where))
        else:
            found[key] = _folder(value, path.parent, f"{path}: {key}")
    if faults:
        raise InputError(error_count(str(path), faults), findings=faults)
    return found, slurm, backends


def _backends(data: object, document: YamlDocument, base: Path) -> tuple[BackendsConfig, list[Finding]]:
    python: dict[str, Path] = {}
    folder, faults = None, []
    for name, value in data.items() if isinstance(data, dict) else [("", data)]:
        key = f"{_BACKENDS}.{name}".rstrip(".")
        text = value.get("python") if isinstance(value, dict) and set(value) == {"python"} else value
        if not isinstance(text, str) or not text or (name != "folder") != isinstance(value, dict):
            expected = "the path of a folder" if name == "folder" else "{folder: PATH, TRAINER: {python: PATH}}"
            where = document.where([_BACKENDS, str(name)])
            faults.append(_fault(key, f"{key} is {value!r}, expected {expected}", where))
        elif name == "folder":
            folder = _folder(text, base, key)
        else:
            python[str(name)] = _folder(text, base, f"{key}.python")
    return BackendsConfig(folder=folder, python=python), faults


def _cluster(data: object, document: YamlDocument) -> tuple[SlurmSite, list[Finding]]:
    from touchline.experiment.validate import build

    site, findings = build(SlurmSite, data, document, (_SLURM,))
    faults = [replace(finding, code=CODE) for finding in findings]
    if site is None:
        return SlurmSite(), faults
    return site, list(_unusable(site, document))


def _unusable(site: SlurmSite, document: YamlDocument) -> Iterator[Finding]:
    """Yield texts that a script cannot hold or that touchline sets itself."""
    from touchline.slurm.options import option_fault, value_fault

    def fault(key: str, message: str, where: Sequence[str | int], hint: str | None = None) -> Finding:
        return _fault(f"{_SLURM}.{key}", f"{_SLURM}.{key}: {message}", document.where([_SLURM, *where]), hint)

    for key in ("account", "partition", "qos", "constraint", "gpu_type", "python"):
        value = getattr(site, key)
        if value is not None and (wrong := value_fault(value)) is not None:
            yield fault(key, wrong, [key])
    for number, module in enumerate(site.modules):
        if (wrong := value_fault(module)) is not None:
            yield fault("modules", wrong, ["modules", number])
    for number, option in enumerate(site.options):
        if (wrong_option := option_fault(option)) is not None:
            message, hint = wrong_option
            yield fault("options", message, ["options", number], hint)


def _folder(value: str, base: Path, what: str) -> Path:
    """Return an absolute folder. A relative one is relative to the file that names it."""
    try:
        return (base / Path(value).expanduser()).absolute()
    except RuntimeError:
        raise InputError(f"{what}: {value!r} names the home of an unknown user") from None


def _fault(key: str, message: str, where: Location, hint: str | None = None) -> Finding:
    return Finding(code=CODE, severity=Severity.ERROR, subject=str(key), message=message, where=where, hint=hint)
