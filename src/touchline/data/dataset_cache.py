"""Cache of dataset descriptions by content hash, so that large files are parsed once.

The key holds everything that the answer depends on. What cannot be read is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.catalog import DatasetInfo
from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.json_text import has_half_characters
from touchline.experiment.experiment import DataConfig

_VERSION = 3
"""Version of the cache; it changes if the same file would be described differently."""
_LIMIT_BYTES = 16 << 20
_DATA = TypeAdapter(DataConfig)
_INFO = TypeAdapter(DatasetInfo)
Columns = dict[str, dict[str, int]]
"""Number of values of each type per column."""
_COLUMNS = TypeAdapter(Columns)


def known_dataset(
    cache_dir: Path, places: Mapping[str, str], data: DataConfig, hashes: Mapping[str, str]
) -> DatasetInfo | None:
    """Return the cached description of files with this content, paths and settings. None if there is none."""
    if any(map(has_half_characters, places.values())):
        return None
    try:
        text = read_text_bounded(_place(cache_dir, places, data, hashes), _LIMIT_BYTES)
        return _INFO.validate_json(text, strict=True)
    except (InputError, HostError, OSError, ValidationError):
        return None


def keep_dataset(
    cache_dir: Path, places: Mapping[str, str], data: DataConfig, hashes: Mapping[str, str], info: DatasetInfo
) -> None:
    """Cache a description. Write errors are ignored."""
    # JSON holds no name that is not UTF-8.
    if any(map(has_half_characters, places.values())):
        return
    try:
        write_atomic(_place(cache_dir, places, data, hashes), _INFO.dump_json(info))
    except (HostError, OSError):
        return


def known_columns(cache_dir: Path, sha256: str) -> Columns | None:
    """Return the cached columns of a file with this content and suffix. None if there are none."""
    try:
        return _COLUMNS.validate_json(read_text_bounded(cache_dir / "columns" / f"{sha256}.json", _LIMIT_BYTES))
    except (InputError, HostError, OSError, ValidationError):
        return None


def keep_columns(cache_dir: Path, sha256: str, columns: Columns) -> None:
    """Cache the columns of a file."""
    try:
        write_atomic(cache_dir / "columns" / f"{sha256}.json", _COLUMNS.dump_json(columns))
    except (HostError, OSError):
        return


def _place(cache_dir: Path, places: Mapping[str, str], data: DataConfig, hashes: Mapping[str, str]) -> Path:
    # In order: of several test sets the first is the test split.
    settings = json.loads(_DATA.dump_json(data.as_file("")))
    identity = [_VERSION, [*places.items()], [*hashes.values()], settings]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache_dir / "datasets" / f"{key}.json"
