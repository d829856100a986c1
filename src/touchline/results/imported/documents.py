"""Configs, state files and job scripts beside a run's logs, each read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.files import open_regular
from touchline.core.json_text import parse_json
from touchline.core.observation import Event
from touchline.history.grouping import role_of
from touchline.history.readers import documents
from touchline.results.imported.curves import Curve
from touchline.results.imported.folders import CHECKPOINT
from touchline.slurm.scripts import read_sbatch
from touchline.spec.document import parse

_CONFIG_LIMIT_BYTES = 1 << 20
_STATE_LIMIT_BYTES = 256 << 20
_STATE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SideFile:
    """One file beside the logs."""

    path: Path
    """Its path."""
    data: dict[str, object]
    """Parsed content; empty for a script."""
    curve: Curve
    """Events that it reports of the run."""


def read_documents(paths: Sequence[Path]) -> tuple[list[SideFile], list[tuple[Path, str]]]:
    """Read side files; return those read, and (path, reason) of the others. Only the newest trainer state is read."""
    states = [path for path in paths if path.name == _STATE]
    own = [path for path in states if CHECKPOINT.fullmatch(path.parent.name) is None]
    kept = set((own or states)[-1:])
    found: list[SideFile] = []
    problems: list[tuple[Path, str]] = []
    for path in paths:
        if path.name == _STATE and path not in kept:
            continue
        try:
            found.append(_read(path))
        except InputError as fault:
            told = [fault.message, *(each.message for each in fault.findings)]
            problems.append((path, "; ".join(dict.fromkeys(told))[:300]))
        except (ValueError, RecursionError) as fault:
            problems.append((path, f"no JSON: {fault}"[:300]))
        except OSError as fault:
            problems.append((path, fault.strerror or "it cannot be read"))
    return found, problems


def _read(path: Path) -> SideFile:
    curve = Curve(path.name)
    is_json = path.suffix.lower() == ".json"
    with open_regular(path) as stream:
        limit = _STATE_LIMIT_BYTES if is_json else _CONFIG_LIMIT_BYTES
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"larger than {limit >> 20} MiB")
    text = raw.decode("utf-8-sig", "replace")
    data: object = {}
    if role_of(path) == "script":
        for event in read_sbatch(text):
            curve.feed(event)
    elif is_json:
        data = parse_json(text)
    elif role_of(path) == "document":
        data = parse(text, path.name).data
    known = data if isinstance(data, dict) else {}
    for event in _events(path.name, known):
        curve.feed(event)
    return SideFile(path=path, data=known, curve=curve)


def _events(name: str, data: dict[str, object]) -> Iterator[Event]:
    for reader in documents() if data else ():
        events = reader(name, data)
        if events is not None:
            yield from events
            return
