"""Folders of adapters and checkpoints that a config resumes or continues from, if they are on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from touchline.backends.registry import traits_of
from touchline.core.files import read_bytes
from touchline.core.finding import Finding, Severity
from touchline.core.json_text import parse_json
from touchline.core.model_size import size_of_name
from touchline.data.shards import ShardHeaderError, read_shard
from touchline.lint.local.lookup import path_of
from touchline.spec.partial import Stated, StatedTraining

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_WHOLE = ("*.safetensors", "*model*.bin", "global_step*", "pytorch_model_fsdp*")
_STATE = "trainer_state.json"
_LIMIT = 8 << 20
_ALIKE = 1.5
"""Tolerance for rounded names: the same model is named 7B and 8B."""


def checkpoint_findings_of(stated: StatedTraining, folder: Path) -> Iterator[Finding]:
    """Yield CK040 to CK043: problems of the adapter or the checkpoint that a training continues from."""
    for named in (stated.parent, stated.resume):
        place = None if named is None or not named.value else path_of(named.value, folder)
        if named is not None and place is not None and place.is_dir():
            yield from _adapter(stated, named, place)
    if stated.resume is not None and traits_of(stated.backend).hf_loop:
        place = path_of(stated.resume.value, folder)
        if place is not None and place.is_dir():
            yield from _state(stated, stated.resume, place)


def _adapter(stated: StatedTraining, named: Stated[str], place: Path) -> Iterator[Finding]:
    config = place / _CONFIG
    weights = [place / each for each in _WEIGHTS if (place / each).is_file()]
    if not config.is_file():
        if weights:
            yield _finding("CK040", named, f"{named.value} has {weights[0].name} and no {_CONFIG}")
        return
    if not weights and not any(any(place.glob(each)) for each in _WHOLE):
        yield _finding("CK040", named, f"{named.value} has {_CONFIG} and no weights of an adapter")
    for each in weights:
        fault = _broken(each)
        if fault is not None:
            yield _finding("CK041", named, f"{named.value}: {fault}")
    values = _object(config)
    if values is None:
        yield _finding("CK041", named, f"{named.value}: {_CONFIG} is no JSON object")
        return
    yield from _other(stated, named, values)


def _other(stated: StatedTraining, named: Stated[str], values: Mapping[str, object]) -> Iterator[Finding]:
    """Compare the adapter's base and rank with the config."""
    base, model = values.get("base_model_name_or_path"), stated.model
    if isinstance(base, str) and model is not None:
        of, on = size_of_name(base), size_of_name(model.value)
        if of is not None and on is not None and not 1 / _ALIKE < of / on < _ALIKE:
            yield _finding("CK042", named, f"{named.value} is an adapter of {base}, and the model is {model.value}")
            return
    rank, wanted = values.get("r"), stated.rank
    if isinstance(rank, int) and wanted is not None and not wanted.is_default and rank != wanted.value:
        then = "its weights do not fit" if named is stated.resume else "the adapter keeps its own"
        message = f"{named.value} has rank {rank}, and {wanted.key} is {wanted.value}: {then}"
        yield _finding("CK042", wanted, message, Severity.WARNING)


def _state(stated: StatedTraining, named: Stated[str], place: Path) -> Iterator[Finding]:
    """Check that the Trainer's state for resuming is there; without it, it silently starts from step 0."""
    config, weights = (place / _CONFIG).is_file(), any(any(place.glob(each)) for each in _WHOLE)
    if not config and not weights:
        return
    if not (place / _STATE).is_file():
        message = f"{named.value} has no {_STATE}: the training begins at step 0 again, on these weights"
        yield _finding("CK043", named, message, Severity.WARNING)
        return
    sharded = any(any(place.glob(each)) for each in ("global_step*", "optimizer_*", "pytorch_model_fsdp*"))
    if not (place / "optimizer.pt").is_file() and not (place / "optimizer.bin").is_file() and not sharded:
        message = f"{named.value} has no optimizer.pt: the optimizer starts from scratch"
        yield _finding("CK043", named, message, Severity.WARNING)
    values = _object(place / _STATE)
    if values is None:
        yield _finding("CK041", named, f"{named.value}: {_STATE} is no JSON object")
        return
    step, most = values.get("global_step"), stated.max_steps
    if isinstance(step, int) and most is not None and 0 < most.value <= step:
        message = f"{named.value} is at step {step}, and {most.key} is {most.value}: nothing is left to train"
        yield _finding("CK043", named, message, Severity.WARNING)


def _broken(path: Path) -> str | None:
    try:
        if path.suffix != ".safetensors":
            return None if path.stat().st_size else f"{path.name} is empty"
        shard = read_shard(path)
    except ShardHeaderError as fault:
        return str(fault)
    except OSError:
        return None
    if shard.size_bytes == shard.expected_bytes:
        return None
    return f"{path.name} has {shard.size_bytes:,} bytes, and its header asks for {shard.expected_bytes:,}"


def _object(path: Path) -> Mapping[str, object] | None:
    try:
        if path.stat().st_size > _LIMIT:
            return {}
        found = parse_json(read_bytes(path, _LIMIT))
    except OSError:
        return {}
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _finding(code: str, at: Stated[object], message: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(code=code, severity=severity, subject=at.key, message=message, where=at.where)
