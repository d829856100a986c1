"""A GPU by its name. An unknown one is missing, never guessed."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from touchline.domain.quantity import Missing, Quantity
from touchline.estimate.coefficients_gpus import ALIASES, GPUS

_VENDORS = re.compile(r"^(?:nvidia|amd|tesla|geforce|\s)+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A kind of GPU."""

    name: str
    """The name that we call it by, `A100-80GB`."""
    capacity_gib: float
    """Memory that the framework sees of it."""
    context_gib: float
    """What the driver keeps of that for a process."""
    peak_tflops: float | None
    """Dense tensor throughput in bfloat16; none where it has no such units."""
    bandwidth_gb_s: float
    """Bandwidth of its memory."""

    @property
    def capacity(self) -> Quantity:
        """The capacity with its source."""
        return Quantity(
            value=self.capacity_gib,
            unit="GiB",
            method=f"memory that PyTorch sees of a {self.name}",
            where="touchline.estimate.coefficients_gpus",
        )


def gpu_names() -> tuple[str, ...]:
    """The names that are known, without the aliases."""
    return tuple(GPUS)


@functools.cache
def find_gpu(name: str) -> Gpu | Missing:
    """The GPU of that name: ours, nvidia-smi's, or a usual short form; upper and lower case alike.

    `A100` and `V100` alone stand for two memories each and are missing.
    """
    plain = _plain(name)
    for known in GPUS:
        if _plain(known) == plain:
            return _gpu(known)
    for alias, known_or_none in ALIASES.items():
        if _plain(alias) == plain:
            if known_or_none is None:
                both = ", ".join(known for known in GPUS if known.startswith(f"{alias}-"))
                return Missing(missing=f"{name!r} is sold with several memories: say one of {both}")
            return _gpu(known_or_none)
    return Missing(missing=f"the GPU {name!r} is not known; known are {', '.join(GPUS)}")


def _plain(name: str) -> str:
    """`NVIDIA A100-SXM4-80GB` and `a100 sxm4 80gb` become one."""
    return re.sub(r"[^a-z0-9]", "", _VENDORS.sub("", name.strip()).lower())


def _gpu(name: str) -> Gpu:
    capacity, context, tflops, bandwidth = GPUS[name]
    return Gpu(name=name, capacity_gib=capacity, context_gib=context, peak_tflops=tflops, bandwidth_gb_s=bandwidth)
