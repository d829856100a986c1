"""Check of a whole model in a checkpoint: shards against index, tensors against the base."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from touchline.data.shards import Tensor
from touchline.results.verification_types import CheckpointFault
from touchline.results.verifying.bases import BaseTensors, read_object
from touchline.results.verifying.values import listed
from touchline.results.verifying.weights import WeightFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"(.+)-(\d{1,5})-of-(\d{1,5})\.safetensors")
_OPTIONAL = re.compile(r"lm_head\.weight|.*\.(?:inv_freq|masked_bias|attn\.bias)")
"""Tied to the embedding or computed; not all libraries save them."""


def shard_faults(files: Mapping[str, WeightFile], folder: Path) -> Iterator[CheckpointFault]:
    """Yield problems between the shards of a model and their index.

    Args:
        files: safetensors files of the model by name.
        folder: checkpoint folder.
    """
    index = folder / INDEX
    if index.is_file() and index.stat().st_size:
        yield from _indexed(files, index)
    else:
        yield from _numbered(files)


def model_tensors(files: Mapping[str, WeightFile]) -> dict[str, Tensor]:
    """Return the tensors of all shards."""
    return {name: tensor for file in files.values() for name, tensor in file.tensors.items()}


def tensor_faults(tensors: Mapping[str, Tensor], base: BaseTensors, file: str | None) -> Iterator[CheckpointFault]:
    """Yield differences between a model's tensors and those of its base.

    Args:
        tensors: tensors of all shards.
        base: its base; not compared without its tensors.
        file: file to report; None if there are several.
    """
    if base.tensors is None:
        return
    absent = sorted(name for name in base.tensors if name not in tensors and not _OPTIONAL.fullmatch(name))
    strange = sorted(name for name in tensors if name not in base.tensors and not _OPTIONAL.fullmatch(name))
    if len(absent) > len(base.tensors) / 2 and strange:
        message = f"{len(strange)} of its {len(tensors)} tensors are none of {base.name}: {listed(strange)}"
        yield CheckpointFault(code="other-base", file=file, message=message)
        return
    if absent:
        message = f"{len(absent)} tensors of {base.name} are missing: {listed(absent)}"
        yield CheckpointFault(code="missing-tensor", file=file, message=message)
    if strange:
        message = f"{base.name} has no {listed(strange)}"
        yield CheckpointFault(code="extra-tensor", file=file, message=message)
    packed = any("float" not in tensor.dtype for tensor in base.tensors.values() if len(tensor.shape) > 1)
    if packed:
        return
    for name, tensor in sorted(tensors.items()):
        known = base.tensors.get(name)
        if known is not None and known.shape != tensor.shape:
            message = f"{name} is {list(tensor.shape)}, and in {base.name} it is {list(known.shape)}"
            yield CheckpointFault(code="wrong-shape", file=file, message=message)
            break


def _indexed(files: Mapping[str, WeightFile], path: Path) -> Iterator[CheckpointFault]:
    content = read_object(path)
    mapped = None if content is None else content.get("weight_map")
    if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
        yield CheckpointFault(code="broken-index", file=INDEX, message="it is no JSON object with a weight_map")
        return
    promised: dict[str, set[str]] = {}
    for tensor, name in mapped.items():
        promised.setdefault(str(name), set()).add(tensor)
    absent = sorted(set(promised) - set(files))
    if absent and len(absent) == len(promised) and files:
        message = f"it names {listed(absent)}, and there is {listed(sorted(files))}: it is of another save"
        yield CheckpointFault(code="stale-index", file=INDEX, message=message)
        return
    for name in absent:
        yield CheckpointFault(
            code="missing-file", file=name, message=f"the index names {len(promised[name])} tensors in it"
        )
    for name, weights in sorted(files.items()):
        if not weights.readable:
            continue
        if name not in promised:
            message = f"the index does not name {name}, so that its tensors are not loaded"
            yield CheckpointFault(code="stale-index", file=INDEX, message=message)
            continue
        lacks, more = sorted(promised[name] - set(weights.tensors)), sorted(set(weights.tensors) - promised[name])
        if lacks or more:
            said = f"{name} has no {listed(lacks)}" if lacks else f"{name} has {listed(more)} too"
            yield CheckpointFault(code="stale-index", file=INDEX, message=f"by it and not so in the file: {said}")


def _numbered(files: Mapping[str, WeightFile]) -> Iterator[CheckpointFault]:
    """Yield problems of shards without an index; their names state their number."""
    matches = [match for name in files if (match := _NUMBERED.fullmatch(name))]
    if not matches:
        return
    most = max(int(match[3]) for match in matches)
    if most == 1:
        return
    yield CheckpointFault(code="missing-file", file=INDEX, message=f"{len(matches)} shards, found only by their index")
    absent = sorted(set(range(1, min(most, 1000) + 1)) - {int(match[2]) for match in matches})
    if absent:
        message = f"shard {absent[0]} of {most}" + (f" and {len(absent) - 1} more are missing" if absent[1:] else "")
        yield CheckpointFault(code="missing-file", file=None, message=message)
