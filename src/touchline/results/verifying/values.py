"""The values of a safetensors file, read with numpy: numbers that are none, and tensors in which nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from touchline.core.files import open_regular
from touchline.data.shards import Tensor
from touchline.results.verification_types import CheckpointFault
from touchline.results.verifying.weights import ELEMENT_BYTES, WeightFile, unreadable

_CHUNK_BYTES = 32 << 20
_SHOWN = 3
"""Tensors that a message names before it counts the others."""
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2"})
Bits = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TensorValueSummary:
    """What the elements of one tensor are."""

    nan: int
    """Elements that are not a number."""
    infinite: int
    """Elements that are infinite."""
    zero: bool
    """Whether all are zero; a tensor without elements is not."""


def value_faults(weights: WeightFile, name: str, may_be_zero: Callable[[str], bool]) -> Iterator[CheckpointFault]:
    """`nan`, `infinite` and `all-zero` of a file whose header describes it; the first tensors of each by name.

    Args:
        weights: the file; one that is not usable has no values to read.
        name: what to call it in faults.
        may_be_zero: whether a tensor may be all zeros.
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
    said = {"nan": "elements that are not a number", "infinite": "infinite elements", "all-zero": "nothing but zeros"}
    for code, names in found.items():
        if names:
            yield CheckpointFault(code=code, file=name, message=f"{said[code]} in {listed(names)}")


def read_values(stream: BinaryIO, header_bytes: int, tensor: Tensor) -> TensorValueSummary | None:
    """Look at every element of a tensor, some millions at a time; None for types without special numbers.

    Raises:
        OSError: the file ends or cannot be read.
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
    """What the elements in some bytes are, by the bits of their exponents, so that types unknown to numpy work too."""
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
"""Bits of infinity; what is larger is not a number."""


def listed(names: list[str]) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
