"""Local files and folders that a config names: data, and the adapters and checkpoints that are continued."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from touchline.backends.config_reading import source_kind
from touchline.backends.registry import traits_of
from touchline.core.errors import TouchlineError
from touchline.core.files import FileCache, read_bytes, read_json_object
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.core.near import near_names
from touchline.core.shape import size_of_name
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import Stated, StatedSource, StatedTraining
from touchline.lint.local.lookup import path_of

_PATTERN = frozenset("*?[{$")
_CLOSE = 0.8
_NUMBERED = re.compile(r"(?:^|/)checkpoint-\d+/?$")
"""Checkpoint of transformers, by its step. If other checkpoints exist, this one should too."""


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
        near = near_names(Path(name).name, [path.name for path in here.iterdir()], most=1, cutoff=_CLOSE)
        if not near and here == folder:
            # Files named by a config are either all beside it or all elsewhere.
            continue
        severity = Severity.ERROR if near else Severity.WARNING
        message = f"{name} does not exist, although its folder does"
        hint = f"did you mean {Path(name).with_name(near[0])}?" if near else None
        yield Finding(code="BK023", severity=severity, subject=named.key, message=message, where=named.where, hint=hint)


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
    here = (folder / Path(name).expanduser()).parent
    try:
        there = here.is_dir() and any(_NUMBERED.search(path.name) for path in here.iterdir())
    except (OSError, ValueError):
        return None
    return here if there else None


def _holder(name: str, folder: Path) -> Path | None:
    path = Path(name)
    parts = [part for part in path.parts[:-1] if part != "."]
    if path.is_absolute() or name.startswith("~") or ".." in parts:
        return None
    try:
        here = folder.joinpath(*parts)
        return here if here.is_dir() and any(each.is_file() for each in here.iterdir()) else None
    except (OSError, ValueError):
        return None


_CONFIG = "adapter_config.json"
_WHOLE = ("*.safetensors", "*model*.bin", "global_step*", "pytorch_model_fsdp*")
_STATE = "trainer_state.json"
_ALIKE = 1.5
"""Tolerance for rounded names: the same model is named 7B and 8B."""


def checkpoint_findings_of(stated: StatedTraining, folder: Path) -> Iterator[Finding]:
    """Yield CK042 and CK043: problems of the adapter or the checkpoint that a training continues from."""
    for named in (stated.parent, stated.resume):
        place = None if named is None or not named.value else path_of(named.value, folder)
        if named is None or place is None or not place.is_dir():
            continue
        yield from _other(stated, named, read_json_object(place / _CONFIG, _LIMIT) or {})
        if named is stated.resume and traits_of(stated.backend).hf_loop:
            yield from _state(stated, named, place)


def _other(stated: StatedTraining, named: Stated[str], values: Mapping[str, object]) -> Iterator[Finding]:
    base, model = values.get("base_model_name_or_path"), stated.model
    if isinstance(base, str) and model is not None:
        of, on = size_of_name(base), size_of_name(model.value)
        if of is not None and on is not None and not 1 / _ALIKE < of / on < _ALIKE:
            yield _finding(
                "CK042", named, f"{named.value} is an adapter of {base}, and the model is {model.value}", Severity.ERROR
            )
            return
    rank, wanted = values.get("r"), stated.rank
    if isinstance(rank, int) and wanted is not None and not wanted.is_default and rank != wanted.value:
        then = "its weights do not fit" if named is stated.resume else "the adapter keeps its own"
        message = f"{named.value} has rank {rank}, but {wanted.key} is {wanted.value}, so {then}"
        yield _finding("CK042", wanted, message)


def _state(stated: StatedTraining, named: Stated[str], place: Path) -> Iterator[Finding]:
    """Check that the Trainer's state for resuming is there; without it, it silently starts from step 0."""
    config, weights = (place / _CONFIG).is_file(), any(any(place.glob(each)) for each in _WHOLE)
    if not config and not weights:
        return
    if not (place / _STATE).is_file():
        message = f"{named.value} has no {_STATE}, so the run starts at step 0 on these weights"
        yield _finding("CK043", named, message)
        return
    sharded = any(any(place.glob(each)) for each in ("global_step*", "optimizer_*", "pytorch_model_fsdp*"))
    if not (place / "optimizer.pt").is_file() and not (place / "optimizer.bin").is_file() and not sharded:
        message = f"{named.value} has no optimizer.pt, so the optimizer starts from scratch"
        yield _finding("CK043", named, message)
    values = read_json_object(place / _STATE, _LIMIT) or {}
    step, most = values.get("global_step"), stated.max_steps
    if isinstance(step, int) and most is not None and 0 < most.value <= step:
        message = f"{named.value} is at step {step}, and {most.key} is {most.value}, so no step is left"
        yield _finding("CK043", named, message)


def _finding(code: str, at: Stated[object], message: str, severity: Severity = Severity.WARNING) -> Finding:
    return Finding(code=code, severity=severity, subject=at.key, message=message, where=at.where)


_LIMIT = 16 << 20
"""Maximum size of a file that is opened."""
_ENDINGS = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv", ".txt"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}
_TRAINED_ON = ("train", "training")
_HELD_OUT = ("validation", "val", "valid", "eval", "dev", "test")
"""Names of splits, the most likely first."""


def data_findings_of(
    training: StatedTraining, document: ForeignDocument, folder: Path, reader: str
) -> Iterator[Finding]:
    """Yield BK025: a data file has another format than the config states, or lacks the field that it names.

    Args:
        reader: trainer whose config it is, which reads the data; our own settings name another one as the backend.
    """
    traits = traits_of(reader)
    for source in training.sources:
        path = path_of(source.name.value, folder) if source.kind == "file" else None
        if path is None or not path.is_file():
            continue
        yield from _format(source, path)
        keys = row_keys(path) if traits.names_field and path.suffix.lower() == ".json" else None
        if keys is not None:
            own = traits.loads_by_itself(document, source.name.key.partition(".")[0])
            severity = Severity.WARNING if own else Severity.ERROR
            yield from _field(source, keys, severity, needed=traits.needs_field)


def _format(source: StatedSource, path: Path) -> Iterator[Finding]:
    stated, ending = source.format, path.suffix.lower()
    actual = next((name for name, endings in _ENDINGS.items() if ending in endings), None)
    if stated is None or stated.is_default or actual is None or stated.value not in _ENDINGS:
        return
    if stated.value != actual:
        message = f"the format is {stated.value}, but {source.name.value} is a {ending} file"
        yield _wrong(stated.key, source.name.where, message, actual)


def _field(source: StatedSource, keys: tuple[str, ...], severity: Severity, *, needed: bool) -> Iterator[Finding]:
    field, name = source.field, source.name
    proposed = f"field: {_meant(source, keys)}" if keys else "delete field"
    if field is not None and not keys:
        message = f"field {field.value} is a key of a JSON object, but {name.value} is a list of rows"
        yield _wrong(field.key, field.where, message, proposed, severity)
    elif field is not None and field.value not in keys:
        message = f"{name.value} has no key {field.value!r} among {', '.join(keys[:6])}"
        yield _wrong(field.key, field.where, message, proposed, severity)
    elif field is None and keys and needed:
        message = f"the rows of {name.value} are under {', '.join(keys[:6])}, and no field is named"
        yield _wrong(name.key, name.where, message, proposed, severity)


def _meant(source: StatedSource, keys: tuple[str, ...]) -> str:
    """Return the field that a source means: the key that its split names, else the one that its role is called by."""
    split = None if source.split is None or source.split.is_default else source.split.value.partition("[")[0]
    wanted = _HELD_OUT if source.role == "validation" else _TRAINED_ON
    named = [key for key in (split, *wanted) if key in keys and not (key in _TRAINED_ON and wanted is _HELD_OUT)]
    return named[0] if named else keys[0]


def _wrong(subject: str, where: Location, message: str, hint: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(code="BK025", severity=severity, subject=subject, message=message, where=where, hint=hint)


def _row_keys(path: Path) -> tuple[str, ...] | None:
    try:
        whole = parse_json(read_bytes(path, _LIMIT).decode("utf-8-sig"))
    except (TouchlineError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return () if isinstance(whole, list) else None
    lists = {str(key): rows for key, rows in whole.items() if isinstance(rows, list) and rows}
    tables = tuple(key for key, rows in lists.items() if isinstance(rows[0], dict))
    return tables if tables and len(tables) == len(lists) else None


row_keys = FileCache(_row_keys, 1 << 30)
"""Return the keys of the rows in a JSON object, or none for a list of rows; None for another or too large a file."""
