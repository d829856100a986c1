"""Weight files of a model, whether they are complete, and the headers of safetensors files; weights are not read.

Format: 8 bytes little-endian header length, the header as JSON, the data. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from touchline.core.errors import HostError, InputError
from touchline.core.files import open_regular, read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json

HEADER_LIMIT_BYTES = 100_000_000
"""Limit of the format on the header size."""

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Entry of a header."""

    dtype: str
    """Dtype, `bfloat16`."""
    elements: int
    """Number of elements."""
    size_bytes: int
    """Bytes in the file."""
    shape: tuple[int, ...] = ()
    begin: int = 0
    """Offset of its bytes, from the end of the header."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """safetensors file."""

    name: str
    size_bytes: int
    expected_bytes: int
    """Size according to its header."""
    tensors: Mapping[str, Tensor]
    header_sha256: str
    header_bytes: int
    """Bytes before the data: the header and its length."""

    @property
    def size_fault(self) -> str | None:
        """Return the difference between the file and its header, after the file's name. None if there is none."""
        if self.size_bytes == self.expected_bytes:
            return None
        problem = "is cut off" if self.size_bytes < self.expected_bytes else "is longer than its header says"
        return f"{problem}: {self.size_bytes:,} bytes, {self.expected_bytes:,} expected"


class ShardHeaderError(Exception):
    """The file has no usable header; the message states why."""


class TruncatedShardError(ShardHeaderError):
    """The file ends within its header."""


def read_shard(path: Path) -> Shard:
    """Read a header.

    Raises:
        ShardHeaderError: it is cut off or no safetensors file.
        OSError: it cannot be opened.
    """
    size = path.stat().st_size
    with open_regular(path) as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise TruncatedShardError(f"{path.name} has {size} bytes, too few for a header")
        length = struct.unpack("<Q", start)[0]
        if length > HEADER_LIMIT_BYTES:
            raise ShardHeaderError(f"{path.name} is not a safetensors file: its header would have {length:,} bytes")
        if 8 + length > size:
            raise TruncatedShardError(
                f"{path.name} is cut off inside its header: {size:,} bytes, at least {8 + length:,} expected"
            )
        header = stream.read(length)
    try:
        tensors, end = _entries(parse_json(header))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardHeaderError(f"{path.name} has an invalid header: {error}") from error
    return Shard(
        name=path.name,
        size_bytes=size,
        expected_bytes=8 + length + end,
        tensors=tensors,
        header_sha256=hashlib.sha256(header).hexdigest(),
        header_bytes=8 + length,
    )


def _entries(header: object) -> tuple[dict[str, Tensor], int]:
    """Return the tensors and the end of the last one, from the end of the header."""
    if not isinstance(header, dict):
        raise TypeError("it is not an object")
    tensors: dict[str, Tensor] = {}
    last = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (_count(offset) for offset in entry["data_offsets"])
        if end < begin:
            raise ValueError(f"{name} ends before it begins")
        shape = tuple(_count(extent) for extent in entry["shape"])
        dtype = _DTYPES.get(entry["dtype"], str(entry["dtype"]))
        tensors[name] = Tensor(dtype, prod(shape), end - begin, shape, begin)
        last = max(last, end)
    return tensors, last


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_INDEX_LIMIT_BYTES = 64 << 20
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_AGAIN = "download it again"


def read_shards(folder: Path, findings: list[Finding]) -> list[Shard]:
    """Return the headers of a model's shards by name. Missing or truncated ones are findings."""
    names, promised = _names(folder, findings)
    found: list[Shard] = []
    for name in names:
        path = folder / name
        try:
            shard = read_shard(path)
        except FileNotFoundError:
            findings.append(model_fault("CK104", folder, f"shard {name} is missing", path, _AGAIN))
            continue
        except ShardHeaderError as error:
            findings.append(model_fault("CK104", folder, f"shard {error}", path, _AGAIN))
            continue
        except OSError as error:
            findings.append(model_fault("CK104", folder, f"shard {name} cannot be read: {error.strerror}", path))
            continue
        if shard.size_fault is not None:
            findings.append(model_fault("CK104", folder, f"shard {name} {shard.size_fault}", path, _AGAIN))
        if absent := sorted(promised.get(name, set()) - set(shard.tensors)):
            message = f"shard {name} lacks {len(absent)} tensors of the index, the first is {absent[0]}"
            findings.append(model_fault("CK104", folder, message, path, "download shards and index of the same model"))
        found.append(shard)
    return found


def _names(folder: Path, findings: list[Finding]) -> tuple[list[str], dict[str, set[str]]]:
    """Return the shards in order, and the tensors that the index lists in each.

    The single file goes before the index, as transformers looks for them.
    """
    if (folder / SINGLE).exists():
        return [SINGLE], {}
    if (folder / INDEX).exists():
        promised = _promised(folder, findings)
        return sorted(promised), promised
    present = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not present:
        pickled = "it has only .bin weights, which are pickles and are not opened"
        message = pickled if has_pickles(folder) else "it has no weights"
        findings.append(model_fault("CK103", folder, message, folder, "download the .safetensors files of this model"))
    numbered = [match for name in present if (match := _NUMBERED.fullmatch(name))]
    if numbered and len(numbered) == len(present):
        message = f"its {len(present)} shards have no {INDEX}"
        findings.append(model_fault("CK102", folder, message, folder / INDEX, "download that file too"))
        stem, _, count = numbered[0].groups()
        # The bound keeps a hostile name from asking for 99,999 findings.
        wanted = (f"{stem}-{number:05d}-of-{count}.safetensors" for number in range(1, min(int(count), 1000) + 1))
        return sorted({*present, *wanted}), {}
    return present, {}


def has_pickles(folder: Path) -> bool:
    """Return whether a folder has weights that are pickles."""
    return any(any(folder.glob(each)) for each in ("*.bin", "*.pt", "*.pth"))


def _promised(folder: Path, findings: list[Finding]) -> dict[str, set[str]]:
    path = folder / INDEX
    try:
        weight_map = parse_json(read_text_bounded(path, _INDEX_LIMIT_BYTES))["weight_map"].items()
        promised: dict[str, set[str]] = {}
        for tensor, name in weight_map:
            # The bare name: an index has no business outside its folder.
            promised.setdefault(Path(name).name, set()).add(tensor)
    except (InputError, HostError) as fault:
        findings.append(model_fault("CK102", folder, fault.message, path, _AGAIN))
        return {}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        findings.append(model_fault("CK102", folder, f"the index of the shards is invalid: {error!r}", path, _AGAIN))
        return {}
    if not promised:
        findings.append(model_fault("CK102", folder, "the index names no shards", path, _AGAIN))
    return promised


def model_fault(
    code: str, folder: Path, message: str, path: Path, hint: str | None = None, severity: Severity = Severity.ERROR
) -> Finding:
    """Return a finding on a file of a model folder."""
    name, where = folder.name, Location(path=str(path))
    text = f"model {name}: {message}"
    return Finding(code=code, severity=severity, subject=name, message=text, where=where, hint=hint)
