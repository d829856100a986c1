"""Packages of GPU kernels that a training's settings ask for."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.experiment.experiment import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """Package with kernels for GPUs."""

    setting: str
    """The setting that asks for it, with its value."""
    module: str
    """Module that Python imports."""
    package: str
    """Package to install."""
    without: str
    """The setting that does without it."""


_FLASH = Kernels(
    setting="train.attention: flash_attention_2",
    module="flash_attn",
    package="flash-attn",
    without="train.attention=sdpa",
)
_LIGER = Kernels(
    setting="train.kernels: liger", module="liger_kernel", package="liger-kernel", without="train.kernels=none"
)


def needed_kernels(train: TrainConfig) -> tuple[Kernels, ...]:
    """Return the packages that a training needs on its GPUs."""
    flash = (_FLASH,) if train.attention == "flash_attention_2" else ()
    return (*flash, _LIGER) if train.kernels == "liger" else flash
