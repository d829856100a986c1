"""GPUs by name. An unknown one is missing, never guessed."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from touchline.core.near import near_names
from touchline.core.quantity import Missing, Quantity
from touchline.estimate.coefficients_gpus import ALIASES, GPUS

_VENDORS = re.compile(r"^(?:nvidia|amd|tesla|geforce|[\s_-])+", re.IGNORECASE)
_SLICE = re.compile(r"\d+g\.\d+gb|\bmig\b")
_FAMILY = re.compile(r"(?:rtx)?[a-z]{0,2}\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """GPU type."""

    name: str
    capacity_gib: float
    """Memory available to the framework."""
    context_gib: float
    """Memory that the driver uses per process."""
    peak_tflops: float | None
    """Dense tensor throughput in bfloat16. None if it has no such units."""
    bandwidth_gb_s: float

    @property
    def capacity(self) -> Quantity:
        """Return the capacity with its source."""
        return Quantity(
            value=self.capacity_gib,
            unit="GiB",
            method=f"memory of a {self.name} visible to PyTorch",
            where="touchline.estimate.coefficients_gpus",
        )


def gpu_names() -> tuple[str, ...]:
    """Return the known names, without aliases."""
    return tuple(GPUS)


@functools.cache
def find_gpu(name: str) -> Gpu | Missing:
    """Return the GPU with a name: ours, nvidia-smi's, or a common short form; case is ignored.

    `A100` and `V100` alone are sold with two memories each and are missing.
    """
    plain = _plain(name)
    for known in GPUS:
        if _plain(known) == plain:
            return _gpu(known)
    for alias, known_or_none in ALIASES.items():
        if _plain(alias) == plain:
            if known_or_none is None:
                both = ", ".join(known for known in GPUS if known.startswith(f"{alias}-"))
                return Missing(missing=f"{name!r} has several memory sizes: use one of {both}")
            return _gpu(known_or_none)
    return Missing(missing=f"unknown GPU {name!r}, expected one of {', '.join(GPUS)}")


def similar_gpus(name: str) -> tuple[str, ...]:
    """Return the known GPUs that a name may stand for, best last: for `a100` and `A100-90GB` those with either
    memory.

    A known name returns itself. A slice of a divided GPU (`a100_1g.5gb`) and an unrelated name return nothing.
    """
    found = find_gpu(name)
    if isinstance(found, Gpu):
        return (found.name,)
    words = _words(name)
    if _SLICE.search(name.lower()) or not words:
        return ()
    family = _FAMILY.match(words[0])
    tried = [words[:count] for count in range(len(words), 0, -1)] + ([] if family is None else [(family[0],)])
    for start in tried:
        kin = [known for known in GPUS if _words(known)[: len(start)] == start]
        if kin:
            return tuple(sorted(kin, key=lambda known: GPUS[known][0]))
    return ()


def nearest_gpus(name: str) -> tuple[str, ...]:
    """Return the known GPUs closest to a misspelled name, best last."""
    similar = similar_gpus(name)
    if _SLICE.search(name.lower()) or any(_words(known)[:1] == _words(name)[:1] for known in similar):
        return similar
    plain, names = _plain(name), {_plain(known): known for known in GPUS}
    longer = tuple(known for its, known in names.items() if len(plain) > 1 and its.startswith(plain))
    near = near_names(plain, list(names), most=1, cutoff=0.6)
    return tuple(dict.fromkeys((*similar, *(longer or (names[each] for each in near)))))


def _words(name: str) -> tuple[str, ...]:
    """Split a name into words: `NVIDIA RTX-6000 Ada` becomes `rtx6000`, `ada`."""
    found = re.findall(r"[a-z0-9]+", _VENDORS.sub("", name.strip()).lower())
    if len(found) > 1 and found[0] == "rtx":
        found = [found[0] + found[1], *found[2:]]
    return tuple(found)


def _plain(name: str) -> str:
    """Normalize a name: `NVIDIA A100-SXM4-80GB` and `a100 sxm4 80gb` become equal."""
    return re.sub(r"[^a-z0-9]", "", _VENDORS.sub("", name.strip()).lower())


def _gpu(name: str) -> Gpu:
    capacity, context, tflops, bandwidth = GPUS[name]
    return Gpu(name=name, capacity_gib=capacity, context_gib=context, peak_tflops=tflops, bandwidth_gb_s=bandwidth)
