"""What a base model's tensors are called and how large they are: what a checkpoint on it must fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from touchline.core.catalog import ModelInfo
from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.data.shapes import shape_of_config
from touchline.data.shards import Tensor
from touchline.data.weights import read_shards

CONFIG_FILE = "config.json"
_CONFIG_LIMIT_BYTES = 16 << 20
NOT_HERE = Missing(missing="the base is not on this disk")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseTensors:
    """A base model, as far as it is known here."""

    name: str
    """Its name."""
    path: str | None = None
    """Its folder, where it was found."""
    tensors: Mapping[str, Tensor] | None = None
    """Its tensors by name; none when its weights are not here, or are of another version than was planned."""
    layers: int | None = None
    """Its blocks."""
    shape: ModelShape | None = None
    """Its dimensions, by a config.json; none when there is none that tells them."""
    weights_sha256: str | None = None
    """`ModelInfo.weights_sha256` as planned; none where nothing was planned."""
    files: frozenset[str] = frozenset()
    """Names of the files in its folder."""
    size: Measured = NOT_HERE
    """Size of its weights (unit B)."""


def planned_base(model: ModelInfo) -> BaseTensors:
    """The base of a plan: its tensors as they are on disk, where these are still the planned ones."""
    folder = Path(model.path)
    read = read_base(folder, model.name)
    same = read is not None and read.size == Quantity(value=model.weight_bytes, unit="B", where=model.path)
    return BaseTensors(
        name=model.name,
        path=model.path,
        tensors=read.tensors if read is not None and same else None,
        layers=model.num_layers,
        shape=read.shape if read is not None else None,
        weights_sha256=model.weights_sha256,
        files=read.files if read is not None else frozenset(),
        size=Quantity(value=model.weight_bytes, unit="B", where=model.path),
    )


def read_base(folder: Path, name: str | None = None) -> BaseTensors | None:
    """A model folder; None where there is none with readable weights."""
    findings: list[Finding] = []
    try:
        if not folder.is_dir():
            return None
        files = frozenset(path.name for path in folder.iterdir())
        shards = read_shards(folder, findings)
    except OSError:
        return None
    if findings or not shards:
        return None
    shape = read_shape(folder)
    return BaseTensors(
        name=name or folder.name,
        path=str(folder),
        tensors={key: tensor for shard in shards for key, tensor in shard.tensors.items()},
        layers=shape.num_layers if shape is not None else None,
        shape=shape,
        files=files,
        size=Quantity(value=sum(shard.size_bytes for shard in shards), unit="B", where=str(folder)),
    )


def read_shape(folder: Path) -> ModelShape | None:
    """Dimensions by the config.json of a folder; None where it tells none."""
    config = read_object(folder / CONFIG_FILE)
    if config is None:
        return None
    found = shape_of_config(config, folder.name, str(folder / CONFIG_FILE))
    return None if isinstance(found, Missing) else found


def read_object(path: Path) -> dict[str, object] | None:
    """A JSON object of a bounded file; None where it is missing or no such thing."""
    try:
        # A pipe in its place would keep a reader waiting for ever.
        data = parse_json(read_text_bounded(path, _CONFIG_LIMIT_BYTES)) if path.is_file() else None
    except (OSError, InputError, HostError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def finite(value: object) -> float | None:
    """A JSON number as a float; None for what is no number, not finite, or too large for one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None
