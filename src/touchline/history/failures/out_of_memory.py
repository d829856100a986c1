"""The numbers of a GPU's out-of-memory message, in every wording that PyTorch and its relatives have printed.

Sources: c10/cuda/CUDACachingAllocator.cpp (until 2.0 in parentheses with semicolons, then in sentences; 2.1 wrote
`capacty`), c10/cuda/CUDAMallocAsyncAllocator.cpp (one figure a line), aten/src/ATen/mps/MPSAllocator.mm (prints GB,
divides by 1024³), and those of XPU and NPU, which follow the first.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.numbers import to_gib, to_number
from touchline.core.observation import During, Observation, ObservationName
from touchline.core.quantity import MemoryKind, Phase

_SIZE = r"(?P<value>\d+(?:\.\d+)?) ?(?P<unit>bytes|[KMGT]i?B)\b"
_MOST_GIB = 1 << 20
"""The driver's `not known` is printed as 17179869184.00 GiB."""


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(words.replace("SIZE", _SIZE))


_ASKED = (
    _pattern(r"[Tt]ried to allocate SIZE"),
    _pattern(r"\bRequested\s*: SIZE"),
    _pattern(r"[Oo]ut of memory (?:while trying to allocate|allocating) SIZE"),
)
_TOTAL = (
    _pattern(r"total capac\w+ of SIZE"),
    _pattern(r"SIZE total capacity"),
    _pattern(r"\bDevice limit\s*: SIZE"),
)
_FREE = (
    _pattern(r"of which SIZE is free"),
    _pattern(r"; SIZE free\b"),
    _pattern(r"\bFree \(according to CUDA\)\s*: SIZE"),
)
_PROCESS = (_pattern(r"\bthis process has SIZE memory in use"),)
_OTHERS = _pattern(r"\bProcess \d+ has SIZE memory in use")
_ALLOCATED = (
    _pattern(r"SIZE is allocated by PyTorch"),
    _pattern(r"SIZE already allocated"),
    _pattern(r"\bCurrently allocated\s*: SIZE"),
    _pattern(r"MPS allocated: SIZE"),
)
_RESERVED = (_pattern(r"SIZE (?:reserved in total by PyTorch|cached)"),)
_UNALLOCATED = _pattern(r"SIZE is reserved by PyTorch but unallocated")
_PHASES: dict[During, Phase] = {"train": "step", "evaluate": "eval"}
"""During a saving or an export no step is computed, and a figure from loading is none of after the loading."""


def read_out_of_memory(text: str, line: int, during: During | None) -> dict[ObservationName, Observation]:
    """Return the figures of a message, sizes as printed; `during` is where in the run its traceback was raised."""
    phase = _PHASES.get(during) if during is not None else None
    found: dict[ObservationName, Observation] = {}

    def put(
        name: ObservationName, size: tuple[float, str] | None, kind: MemoryKind | None, certain: bool = True
    ) -> None:
        if size is not None:
            value, unit = size
            found[name] = Observation(
                name=name, value=value, unit=unit, line=line, phase=phase, kind=kind, certain=certain
            )

    allocated = _first(_ALLOCATED, text)
    process = _first(_PROCESS, text)
    others = [size for match in _OTHERS.finditer(text) if (size := _size(match)) is not None]
    put("oom_asked", _first(_ASKED, text), None)
    put("oom_total", _first(_TOTAL, text), None)
    put("oom_free", _first(_FREE, text), None)
    put("oom_allocated", allocated, "allocated")
    put("oom_reserved", _first(_RESERVED, text) or _reserved(allocated, text), "reserved")
    if process is not None:
        put("oom_process", process, "process")
        put("oom_other_process", _sum(others), "process")
    elif len(others) == 1:
        # In a container the process does not know its own id, and so takes itself for another.
        put("oom_process", others[0], "process", certain=False)
    return found


def _reserved(allocated: tuple[float, str] | None, text: str) -> tuple[float, str] | None:
    """Return what PyTorch holds in all; newer messages give the allocated and the unallocated part."""
    match = _UNALLOCATED.search(text)
    unallocated = None if match is None else _size(match)
    return None if allocated is None or unallocated is None else _sum([allocated, unallocated])


def _sum(sizes: list[tuple[float, str]]) -> tuple[float, str] | None:
    if len(sizes) < 2:
        return sizes[0] if sizes else None
    in_gib = [to_gib(value, unit) for value, unit in sizes]
    return (sum(each for each in in_gib if each is not None), "GiB")


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> tuple[float, str] | None:
    return next((_size(match) for pattern in patterns if (match := pattern.search(text)) is not None), None)


def _size(match: re.Match[str]) -> tuple[float, str] | None:
    """Return the size in MiB or GiB; GB and MB are those of allocators that divide by 1024 and leave out the i."""
    value, unit = to_number(match.group("value")), match.group("unit")
    if value is None:
        return None
    if len(unit) == 2:
        unit = f"{unit[0]}iB"
    in_gib = to_gib(value, unit)
    if in_gib is None or in_gib > _MOST_GIB:
        return None
    return (value, unit) if unit in ("MiB", "GiB") else (in_gib, "GiB")
