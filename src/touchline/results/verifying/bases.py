"""Tensors and dimensions of base models, with which checkpoints are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from touchline.core.catalog import ModelInfo
from touchline.core.files import RECORD_LIMIT_BYTES, read_record
from touchline.core.finding import Finding
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.data.shapes import shape_of_config
from touchline.data.weights import Tensor, read_shards

CONFIG_FILE = "config.json"
NOT_HERE = Missing(missing="the base is not on this disk")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseTensors:
    """Known facts of a base model."""

    name: str
    path: str | None = None
    tensors: Mapping[str, Tensor] | None = None
    """Tensors by name; None if the weights are not here or not of the planned version."""
    layers: int | None = None
    shape: ModelShape | None = None
    weights_sha256: str | None = None
    """Planned `ModelInfo.weights_sha256`; None without a plan."""
    files: frozenset[str] = frozenset()
    size: Measured = NOT_HERE


def planned_base(model: ModelInfo) -> BaseTensors:
    """Return a planned base, with tensors if those on disk are still the planned ones."""
    folder = Path(model.path)
    read = read_base(folder, model.name)
    same = read is not None and read.size == Quantity(value=model.weight_bytes, unit="B", where=model.path)
    return BaseTensors(
        name=model.name,
        path=model.path,
        tensors=read.tensors if read is not None and same else None,
        layers=model.num_layers,
        shape=read.shape if read is not None else None,
        weights_sha256=None if isinstance(model.weights_sha256, Missing) else model.weights_sha256,
        files=read.files if read is not None else frozenset(),
        size=Quantity(value=model.weight_bytes, unit="B", where=model.path),
    )


def read_base(folder: Path, name: str | None = None) -> BaseTensors | None:
    """Read a model folder; None if it has no readable weights."""
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
    """Read dimensions from a folder's config.json; None if not stated."""
    config = read_object(folder / CONFIG_FILE)
    if config is None:
        return None
    found = shape_of_config(config, folder.name, str(folder / CONFIG_FILE))
    return None if isinstance(found, Missing) else found


def read_object(path: Path) -> dict[str, object] | None:
    """Read a JSON object from a bounded file; None if missing or not an object."""
    try:
        content = read_record(path)
        data = parse_json(content.decode("utf-8-sig")) if len(content) <= RECORD_LIMIT_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def finite(value: object) -> float | None:
    """Return a JSON number as a finite float; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None
