"""The numbers of a GPU's out-of-memory message, in the wordings that PyTorch and its relatives have printed.

Sources: c10/cuda/CUDACachingAllocator.cpp (until 2.0 in parentheses with semicolons, then in sentences; 2.1 wrote
`capacty`), c10/cuda/CUDAMallocAsyncAllocator.cpp (one figure a line), aten/src/ATen/mps/MPSAllocator.mm (prints GB,
divides by 1024³), and those of XPU and NPU, which follow the first.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.numbers import to_gib, to_number
from touchline.core.observation import During, Observation, ObservationName
from touchline.core.quantity import MemoryKind, Phase

_SIZE = r"(\d+(?:\.\d+)?) ?(bytes|[KMGT]i?B)\b"
_MOST_GIB = 1 << 20
"""The driver's `not known` is printed as 17179869184.00 GiB."""
_FIGURES: tuple[tuple[ObservationName, MemoryKind | None, str], ...] = (
    ("oom_asked", None, rf"(?:[Tt]ried to allocate|\bRequested\s*:|while trying to allocate) {_SIZE}"),
    ("oom_total", None, rf"(?:total capac\w+ of|\bDevice limit\s*:) {_SIZE}|{_SIZE} total capacity"),
    (
        "oom_free",
        None,
        rf"of which {_SIZE} is free|; {_SIZE} free\b|\bFree \(according to CUDA\)\s*: {_SIZE}",
    ),
    (
        "oom_allocated",
        "allocated",
        rf"{_SIZE} (?:is allocated by PyTorch|already allocated)|(?:\bCurrently allocated\s*|MPS allocated): {_SIZE}",
    ),
    ("oom_reserved", "reserved", rf"{_SIZE} (?:reserved in total by PyTorch|cached)"),
    ("oom_process", "process", rf"\bthis process has {_SIZE} memory in use"),
)
_PATTERNS = tuple((name, kind, re.compile(pattern)) for name, kind, pattern in _FIGURES)
_OTHERS = re.compile(rf"\bProcess \d+ has {_SIZE} memory in use")
_UNALLOCATED = re.compile(rf"{_SIZE} is reserved by PyTorch but unallocated")
_PHASES: dict[During, Phase] = {"train": "step", "evaluate": "eval"}
"""During a saving or an export no step is computed, and a figure from loading is none of after the loading."""


def read_out_of_memory(text: str, line: int, during: During | None) -> dict[ObservationName, Observation]:
    """Return the figures of a message, sizes as printed; `during` is where in the run its traceback was raised."""
    phase = _PHASES.get(during) if during is not None else None
    found: dict[ObservationName, Observation] = {}

    def put(
        name: ObservationName, kind: MemoryKind | None, size: tuple[float, str] | None, certain: bool = True
    ) -> None:
        if size is not None:
            found[name] = Observation(
                name=name, value=size[0], unit=size[1], line=line, phase=phase, kind=kind, certain=certain
            )

    for name, kind, pattern in _PATTERNS:
        put(name, kind, _size(pattern.search(text)))
    unallocated = _size(_UNALLOCATED.search(text))
    if "oom_allocated" in found and unallocated is not None:
        # Newer messages give the allocated and the unallocated part of what PyTorch holds.
        allocated = found["oom_allocated"]
        put("oom_reserved", "reserved", _sum([(float(allocated.value), allocated.unit), unallocated]))
    others = [size for match in _OTHERS.finditer(text) if (size := _size(match)) is not None]
    if "oom_process" in found:
        put("oom_other_process", "process", _sum(others))
    elif len(others) == 1:
        # In a container the process does not know its own id, and so takes itself for another.
        put("oom_process", "process", others[0], certain=False)
    return found


def _sum(sizes: list[tuple[float, str]]) -> tuple[float, str] | None:
    if len(sizes) < 2:
        return sizes[0] if sizes else None
    return sum(to_gib(value, unit) or 0.0 for value, unit in sizes), "GiB"


def _size(match: re.Match[str] | None) -> tuple[float, str] | None:
    """Return the size in MiB or GiB; GB and MB are those of allocators that divide by 1024 and leave out the i."""
    groups = [group for group in match.groups() if group] if match is not None else []
    value = to_number(groups[0]) if groups else None
    if value is None:
        return None
    unit = f"{groups[1][0]}iB" if len(groups[1]) == 2 else groups[1]
    in_gib = to_gib(value, unit)
    if in_gib is None or in_gib > _MOST_GIB:
        return None
    return (value, unit) if unit in ("MiB", "GiB") else (in_gib, "GiB")
