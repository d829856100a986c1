"""Check of the values of a safetensors file with numpy: not finite, or all zero."""

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
"""Maximum number of names in a message."""
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2"})
Bits = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TensorValueSummary:
    """Summary of the elements of one tensor."""

    nan: int
    """Number of NaN elements."""
    infinite: int
    """Number of infinite elements."""
    zero: bool
    """Whether all are zero; False for an empty tensor."""


def value_faults(weights: WeightFile, name: str, may_be_zero: Callable[[str], bool]) -> Iterator[CheckpointFault]:
    """Yield `nan`, `infinite` and `all-zero` problems of a file, with the first tensor names.

    Args:
        weights: weights file; skipped if not usable.
        name: reported file name.
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
    said = {"nan": "NaN elements", "infinite": "infinite elements", "all-zero": "nothing but zeros"}
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
