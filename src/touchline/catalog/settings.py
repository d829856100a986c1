"""Where models and caches are: environment, then the user's config file, then the platform's usual folders."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from touchline.errors import InputFault
from touchline.files import read_text_bounded

_KEYS = ("models_dir", "cache_dir")
_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """This user's settings on this machine."""

    models_dir: Path
    """Folder with one folder a model."""
    cache_dir: Path
    """Folder for what can be computed again."""


def config_path() -> Path:
    """The user's config file; it need not exist."""
    return platformdirs.user_config_path("touchline") / "config.yaml"


def load_settings() -> Settings:
    """The settings.

    Raises:
        InputFault: the config file is broken or has an unknown key.
    """
    data = platformdirs.user_data_path("touchline")
    found = {"models_dir": data / "models", "cache_dir": platformdirs.user_cache_path("touchline")}
    found |= _from_file(config_path())
    for key in _KEYS:
        if value := os.environ.get(f"TOUCHLINE_{key.upper()}"):
            found[key] = Path(value).expanduser().absolute()
    return Settings(models_dir=found["models_dir"], cache_dir=found["cache_dir"])


def _from_file(path: Path) -> dict[str, Path]:
    if not path.exists():
        return {}
    from touchline.spec.document import parse

    data = parse(read_text_bounded(path, _LIMIT_BYTES), str(path)).data
    for key, value in data.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise InputFault(
                f"{path}: unknown key {key!r}",
                expected=f"one of {', '.join(_KEYS)}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
        if not isinstance(value, str) or not value:
            raise InputFault(f"{path}: {key} is {value!r}", expected="the path of a folder")
    return {key: Path(str(value)).expanduser().absolute() for key, value in data.items()}
