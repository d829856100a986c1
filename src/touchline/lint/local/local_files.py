"""Local files that a config names. Missing files are reported only if their folder exists."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from touchline.backends.config_reading import source_kind
from touchline.core.finding import Finding, Severity
from touchline.core.near import misspelled, near_names
from touchline.lint.local.lookup import path_of
from touchline.spec.partial import Stated, StatedTraining

_PATTERN = frozenset("*?[{$")
_CLOSE = 0.8
_NUMBERED = re.compile(r"(?:^|/)checkpoint-\d+/?$")
"""Checkpoint of transformers, by its step. If other checkpoints exist, this one should too."""


_MOST_BESIDE = 500
"""Maximum number of entries of a models folder. A larger one is a scratch disk, and slow to list."""


def absent_files(stated: StatedTraining, folder: Path) -> Iterator[Finding]:
    """Yield BK023 for each missing local file of a training that should be on this machine."""
    seen: set[str] = set()
    for named in _named(stated):
        name = named.value
        if name in seen or not name or _PATTERN & set(name) or "://" in name or path_of(name, folder) is not None:
            continue
        seen.add(name)
        here = _siblings(name, folder) if _NUMBERED.search(name) else _holder(name, folder)
        if here is None:
            continue
        near = near_names(Path(name).name, [each.name for each in here.iterdir()], most=1, cutoff=_CLOSE)
        if not near and here == folder:
            # Files named by a config are either all beside it or all elsewhere.
            continue
        yield Finding(
            code="BK023",
            severity=Severity.ERROR if near else Severity.WARNING,
            subject=named.key,
            message=f"{name} does not exist, although its folder does",
            where=named.where,
            hint=f"did you mean {Path(name).with_name(near[0])}?" if near else None,
        )


def absent_model(stated: StatedTraining, folder: Path) -> Iterator[Finding]:
    """Yield BK023 for a missing model folder if a folder of a similar name is beside it."""
    named = stated.model if stated.model_path is None else stated.model_path
    if named is None or not named.value or named.value.startswith("~") or _PATTERN & set(named.value):
        return
    path = folder / named.value
    try:
        if path_of(named.value, folder) is not None or not path.parent.is_dir():
            return
        beside = [each.name for each in itertools.islice(path.parent.iterdir(), _MOST_BESIDE + 1)]
        near = misspelled(path.name, beside) if len(beside) <= _MOST_BESIDE else None
        is_model = near is not None and (path.parent / near / "config.json").is_file()
    except (OSError, ValueError):
        return
    if near is not None and is_model:
        yield Finding(
            code="BK023",
            severity=Severity.ERROR,
            subject=named.key,
            message=f"{named.value} is not there, and {near} is, in the same folder",
            where=named.where,
            hint=f"did you mean {Path(named.value).with_name(near)}?",
        )


def _named(stated: StatedTraining) -> Iterator[Stated[str]]:
    yield from (source.name for source in stated.sources if source.kind == "file")
    yield from (each for each in (stated.resume, stated.parent) if each is not None and _NUMBERED.search(each.value))
    if stated.image_root is not None:
        yield stated.image_root
    sharding = stated.distributed
    if sharding is not None and not sharding.is_default:
        name = sharding.value.partition(" ")[2]
        if name and source_kind(name) == "file":
            yield Stated(name, sharding.key, sharding.where)


def _siblings(name: str, folder: Path) -> Path | None:
    """Return the folder of a checkpoint if it holds other checkpoints."""
    here = (folder / Path(name).expanduser()).parent
    try:
        there = here.is_dir() and any(_NUMBERED.search(each.name) for each in here.iterdir())
    except (OSError, ValueError):
        return None
    return here if there else None


def _holder(name: str, folder: Path) -> Path | None:
    """Return the folder where a relative path's last part should be, if it holds data beside the config."""
    path = Path(name)
    parts = [part for part in path.parts[:-1] if part != "."]
    if path.is_absolute() or name.startswith("~") or ".." in parts:
        return None
    try:
        here = folder.joinpath(*parts)
        return here if here.is_dir() and any(each.is_file() for each in here.iterdir()) else None
    except (OSError, ValueError):
        return None
