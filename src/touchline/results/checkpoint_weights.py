"""Check of one file of weights, in deep mode of every value; and the base model that checkpoints are compared with."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from touchline.core.catalog import ModelInfo
from touchline.core.files import RECORD_LIMIT_BYTES, open_regular, read_record
from touchline.core.finding import Finding
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.data.shapes import shape_of_config
from touchline.data.weights import Shard, ShardHeaderError, Tensor, TruncatedShardError, read_shard, read_shards
from touchline.experiment.experiment import CheckpointKind
from touchline.experiment.training import LoraConfig
from touchline.results.verification_types import CheckpointFault

ELEMENT_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes per element; sizes of other dtypes cannot be checked."""
_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """Header of a safetensors file."""

    path: Path
    size_bytes: int
    """Size on disk; 0 if unreadable."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors by name; empty if the header is unreadable."""
    header_bytes: int = 0
    readable: bool
    faults: tuple[CheckpointFault, ...] = ()

    @property
    def usable(self) -> bool:
        """Return True if every tensor is in the file where its header states."""
        return self.readable and not self.faults


def read_weights(path: Path, name: str | None = None) -> WeightFile:
    """Read a file's header and compare it with the file size; no value is read.

    Args:
        name: reported file name; its own name if None.
    """
    called, size = name or path.name, 0
    try:
        size = path.stat().st_size
        if size == 0:
            return _unreadable(path, 0, CheckpointFault(code="zero-byte", file=called, message="the file is empty"))
        shard = read_shard(path)
    except TruncatedShardError as error:
        return _unreadable(path, size, CheckpointFault(code="truncated", file=called, message=str(error)))
    except ShardHeaderError as error:
        return _unreadable(path, size, CheckpointFault(code="bad-header", file=called, message=str(error)))
    except OSError as error:
        return _unreadable(path, 0, unreadable(called, error))
    return WeightFile(
        path=path,
        size_bytes=size,
        tensors=shard.tensors,
        header_bytes=shard.header_bytes,
        readable=True,
        faults=tuple(_layout(shard, called)),
    )


def unreadable(name: str, error: OSError) -> CheckpointFault:
    """Return the problem of a file that the OS cannot read."""
    reason = error.strerror or type(error).__name__
    return CheckpointFault(code="unreadable", file=name, message=f"it cannot be read: {reason}")


def _unreadable(path: Path, size: int, fault: CheckpointFault) -> WeightFile:
    return WeightFile(path=path, size_bytes=size, readable=False, faults=(fault,))


def _layout(shard: Shard, name: str) -> Iterator[CheckpointFault]:
    """Yield problems of the data layout: wrong length, gaps, overlaps.

    Loaders reject such files, because a tensor would be read from another's bytes.
    """
    if shard.size_bytes != shard.expected_bytes:
        cut = shard.size_bytes < shard.expected_bytes
        yield CheckpointFault(
            code="truncated" if cut else "overlong",
            file=name,
            message=f"{shard.size_bytes:,} bytes, but its header needs {shard.expected_bytes:,}",
        )
    end = 0
    for tensor_name, tensor in sorted(shard.tensors.items(), key=lambda item: (item[1].begin, item[1].size_bytes)):
        element = ELEMENT_BYTES.get(tensor.dtype)
        if tensor.begin != end or (element is not None and element * tensor.elements != tensor.size_bytes):
            message = (
                f"{tensor_name}, {tensor.dtype} {list(tensor.shape)}, does not fit its bytes from {tensor.begin:,}"
            )
            yield CheckpointFault(code="bad-offsets", file=name, message=message)
            break
        end = tensor.begin + tensor.size_bytes
    if not shard.tensors:
        yield CheckpointFault(code="no-weights", file=name, message="its header lists no tensor")


def archive_faults(path: Path, *, deep: bool) -> Iterator[CheckpointFault]:
    """Yield problems of a torch.save file (`.pt`, `.pth`, `.bin`) by its zip directory; the pickle is never loaded.

    Args:
        deep: read every entry and compare its checksum.
    """
    try:
        if path.stat().st_size == 0:
            yield CheckpointFault(code="zero-byte", file=path.name, message="the file is empty")
            return
        with open_regular(path) as stream:
            begins = stream.read(len(_MAGIC))
        if begins != _MAGIC:
            message = "it is not a torch.save archive, so its content is unknown without loading"
            yield CheckpointFault(code="not-a-zip", file=path.name, message=message)
            return
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            torn = archive.testzip() if deep else None
        if torn is not None:
            message = f"bytes that do not fit their checksum in {torn}"
            yield CheckpointFault(code="changed", file=path.name, message=message)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        message = f"its directory at the end cannot be read: {error} (truncated or overwritten)"
        yield CheckpointFault(code="truncated", file=path.name, message=message)
    except OSError as error:
        yield unreadable(path.name, error)


_CHUNK_BYTES = 32 << 20
_SHOWN = 3
"""Maximum number of names in a message."""
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2"})
Bits = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TensorValueSummary:
    """Summary of the elements of one tensor."""

    nan: int
    infinite: int
    zero: bool
    """Whether all are zero; False for an empty tensor."""


def value_faults(weights: WeightFile, name: str, may_be_zero: Callable[[str], bool]) -> Iterator[CheckpointFault]:
    """Yield `nan`, `infinite` and `all-zero` problems of a file, with the first tensor names.

    Args:
        weights: weights file; skipped if not usable.
        may_be_zero: predicate for tensors that may be all zero.
    """
    if not weights.usable:
        return
    found: dict[str, list[str]] = {"nan": [], "infinite": [], "all-zero": []}
    try:
        with open_regular(weights.path) as stream:
            for tensor_name, tensor in sorted(weights.tensors.items(), key=lambda item: item[1].begin):
                values = read_values(stream, weights.header_bytes, tensor)
                if values is None:
                    continue
                if values.nan:
                    found["nan"].append(f"{tensor_name} ({values.nan:,} of {tensor.elements:,})")
                if values.infinite:
                    found["infinite"].append(f"{tensor_name} ({values.infinite:,} of {tensor.elements:,})")
                if values.zero and not may_be_zero(tensor_name):
                    found["all-zero"].append(tensor_name)
    except OSError as error:
        yield unreadable(name, error)
    said = {"nan": "NaN elements", "infinite": "infinite elements", "all-zero": "only zeros"}
    for code, names in found.items():
        if names:
            yield CheckpointFault(code=code, file=name, message=f"{said[code]} in {listed(names)}")


def read_values(stream: BinaryIO, header_bytes: int, tensor: Tensor) -> TensorValueSummary | None:
    """Read every element of a tensor in chunks. Return None for dtypes without special values.

    Raises:
        OSError: the file ends early or cannot be read.
    """
    if tensor.dtype not in _FLOATS or not tensor.elements:
        return None
    stream.seek(header_bytes + tensor.begin)
    left, nan, infinite, zero = tensor.size_bytes, 0, 0, True
    step = _CHUNK_BYTES - _CHUNK_BYTES % ELEMENT_BYTES[tensor.dtype]
    while left > 0:
        data = stream.read(min(step, left))
        if not data:
            raise OSError("it ends before its header says")
        left -= len(data)
        part = classify_values(data, tensor.dtype)
        nan, infinite, zero = nan + part.nan, infinite + part.infinite, zero and part.zero
    return TensorValueSummary(nan, infinite, zero)


def classify_values(data: bytes, dtype: str) -> TensorValueSummary:
    """Summarize elements by their exponent bits, which also works for dtypes unknown to numpy."""
    width = ELEMENT_BYTES[dtype]
    bits: Bits = np.frombuffer(data, dtype=f"<u{width}")
    sign = 1 << (8 * width - 1)
    magnitude = bits & bits.dtype.type(sign - 1)
    zero = not bool(magnitude.any())
    if dtype == "float8_e4m3":
        # No infinity; only all bits set is not a number (OCP 8-bit floating point, section 5.2).
        return TensorValueSummary(int((magnitude == 0x7F).sum()), 0, zero)
    infinity = magnitude.dtype.type(_INFINITY[dtype])
    return TensorValueSummary(int((magnitude > infinity).sum()), int((magnitude == infinity).sum()), zero)


_INFINITY = {
    "float64": 0x7FF0_0000_0000_0000,
    "float32": 0x7F80_0000,
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float8_e5m2": 0x7C,
}
"""Bits of infinity; larger magnitudes are NaN."""


def listed(names: list[str]) -> str:
    """Join the first names and the number of the others."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """Expected properties of a checkpoint; None fields are unknown and not compared."""

    run: str
    planned: bool = False
    """Whether touchline made it, so that its marker is required."""
    digest: str | None = None
    base: BaseTensors | None = None
    wanted: LoraConfig | None = None
    saves: CheckpointKind | None = None
    untrained: bool = False
    """Whether its adapter is untrained by intention, as in a no-op control."""
