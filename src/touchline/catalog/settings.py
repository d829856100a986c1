"""Where models, caches and the history are: environment, then the user's config file, then the usual folders."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from touchline.domain.finding import Finding, Severity, Where
from touchline.errors import InputFault
from touchline.files import read_text_bounded

_KEYS = ("models_dir", "cache_dir", "history_dir")
_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """This user's settings on this machine."""

    models_dir: Path
    """Folder with one folder a model."""
    cache_dir: Path
    """Folder for what can be computed again."""
    history_dir: Path
    """Folder with the records of past runs, `history/` under the user's data by default; TOUCHLINE_HISTORY_DIR sets it
    as the other names of this kind do, and a group may share one."""


def config_path() -> Path:
    """The user's config file; it need not exist."""
    return platformdirs.user_config_path("touchline") / "config.yaml"


def load_settings() -> Settings:
    """The settings.

    Raises:
        InputFault: the config file is broken or has an unknown key.
    """
    data = platformdirs.user_data_path("touchline")
    found = {
        "models_dir": data / "models",
        "cache_dir": platformdirs.user_cache_path("touchline"),
        "history_dir": data / "history",
    }
    found |= _from_file(config_path())
    for key in _KEYS:
        if value := os.environ.get(f"TOUCHLINE_{key.upper()}"):
            found[key] = _folder(value, Path.cwd(), f"TOUCHLINE_{key.upper()}")
    return Settings(models_dir=found["models_dir"], cache_dir=found["cache_dir"], history_dir=found["history_dir"])


def _from_file(path: Path) -> dict[str, Path]:
    if not path.exists():
        return {}
    # Only who has a config file waits for the YAML reader to load.
    from touchline.spec.document import parse

    text = read_text_bounded(path, _LIMIT_BYTES)
    if all(line.strip() == "" or line.lstrip().startswith("#") for line in text.splitlines()):
        return {}
    document = parse(text, str(path))
    faults: list[Finding] = []
    found: dict[str, Path] = {}
    for key, value in document.data.items():
        where = document.where([key])
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else None
            faults.append(_fault(key, f"unknown key {key!r}, expected one of {', '.join(_KEYS)}", where, hint))
        elif not isinstance(value, str) or not value:
            faults.append(_fault(key, f"{key} is {value!r}, expected the path of a folder", where))
        else:
            found[key] = _folder(value, path.parent, f"{path}: {key}")
    if faults:
        raise InputFault(f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}", findings=faults)
    return found


def _folder(value: str, base: Path, what: str) -> Path:
    """An absolute folder; a relative one counts from where it was written, not from where one happens to stand."""
    try:
        return (base / Path(value).expanduser()).absolute()
    except RuntimeError:
        raise InputFault(f"{what}: {value!r} names the home of a user who is not here") from None


def _fault(key: str, message: str, where: Where, hint: str | None = None) -> Finding:
    return Finding(code="US101", severity=Severity.ERROR, subject=str(key), message=message, where=where, hint=hint)
